// The diff of two versions: chosen, drawn by diff2html, and moved to what a link in the article names.
"use strict";
(() => {
  const pane = document.querySelector(".diff");
  const article = document.querySelector(".step-article");
  const choice = pane.querySelector("form").elements;
  const names = [...choice.before.options].map((option) => option.value);
  let data;

  const element = (tag, properties, ...children) => {
    const made = Object.assign(document.createElement(tag), properties);
    made.append(...children);
    return made;
  };
  const lines = (count) => `${count.toLocaleString("en")} line${count === 1 ? "" : "s"}`;

  // The two versions, the earlier first: a diff is of a step forward.
  const chosen = () => [choice.before.value, choice.after.value].sort((a, b) => names.indexOf(a) - names.indexOf(b));

  async function choose() {
    const [before, after] = chosen();
    let found = {diff: "", files: [], count: 0, unchanged: [], functions: {}};
    if (before !== after) {
      found = await (await fetch(`${pane.dataset.diffs}/${before}-${after}.json`)).json();
    }
    if (chosen().join() === `${before},${after}`) {  // else another choice was made meanwhile
      data = found;
      draw();
    }
  }

  function draw() {
    const [before, after] = chosen();
    const count = pane.querySelector(".diff-count");
    if (before === after) {
      count.textContent = pane.dataset.same;
    } else {
      count.replaceChildren(
        `${before} → ${after}: `,
        element("strong", {}, `${lines(data.count)} changed`),
        data.files.some((file) => !file[2]) ? " but for printouts and what only int8 has" : "",
        data.unchanged.length ? "; unchanged: " : "",
        ...data.unchanged.flatMap((name, index) => [
          index ? ", " : "", element("a", {href: `${pane.dataset.sources}/${after}/${name}.html`}, name)]),
        ".");
    }
    pane.querySelector(".diff-files").replaceChildren(...data.files.map(([name, count, counted]) => {
      const button = element("button", {type: "button"}, name, element("span", {}, counted ? `${count}` : `(${count})`));
      button.addEventListener("click", () => show(name));
      return button;
    }));
    const target = pane.querySelector(".diff-text");
    target.replaceChildren();
    if (data.diff) {
      new Diff2HtmlUI(target, data.diff, {
        outputFormat: choice.sides.checked ? "side-by-side" : "line-by-line",
        drawFileList: false, fileContentToggle: false, matching: "lines", colorScheme: "light", highlight: true,
        stickyFileHeaders: false,
      }).draw();
    }
    paint();
    if (article) {
      link();
    }
  }

  // diff2html has a class for each colour scheme; the theme names its own on the body.
  function paint() {
    const theme = document.body.dataset.theme;
    for (const wrapper of pane.querySelectorAll(".d2h-wrapper")) {
      wrapper.classList.remove("d2h-light-color-scheme", "d2h-dark-color-scheme", "d2h-auto-color-scheme");
      wrapper.classList.add(`d2h-${theme || "auto"}-color-scheme`);
    }
  }

  // Move the diff to a file, and to a function in it: to the first row of the diff within the function's lines.
  function show(file, name) {
    const place = data.files.findIndex((known) => known[0] === file);
    const wrapper = pane.querySelectorAll(".d2h-file-wrapper")[place];
    const [first, last] = data.functions[file]?.[name] ?? [0, -1];
    const rows = [...wrapper.querySelectorAll(".d2h-file-side-diff:last-child tr, .d2h-file-diff tr")];
    const row = rows.find((row) => {
      const number = row.querySelector(".line-num2, .d2h-code-side-linenumber");
      return number && Number(number.textContent) >= first && Number(number.textContent) <= last;
    });
    pane.querySelectorAll(".here").forEach((other) => other.classList.remove("here"));
    (row ?? wrapper).classList.add("here");
    const reading = scrollY; // on a phone, "Article" leads back to it
    const back = document.querySelector(".step-jump a[href='#']");
    if (back) {
      back.onclick = (event) => {
        event.preventDefault();
        scrollTo(0, reading);
      };
    }
    (row ?? wrapper).scrollIntoView({block: row ? "center" : "start"});
  }

  // In the article: links to a changed file, and the names of changed functions.
  function link() {
    const changed = new Set(data.files.map((file) => file[0]));
    const versions = [choice.before.value, choice.after.value];
    const file = (anchor) => {
      const [, version, name] = anchor.pathname.match(/\/source\/([^/]+)\/([^/]+)\.html$/) ?? [];
      return versions.includes(version) && changed.has(name) ? name : undefined;
    };
    // A rung of the ladder is one file; its diff is from the rung below.
    const rung = (anchor) => names.indexOf(anchor.pathname.match(/\/rungs\/([^/]+)\.c\.html$/)?.[1]);
    for (const anchor of article.querySelectorAll("a[href]")) {
      anchor.classList.toggle("moves-the-diff", file(anchor) !== undefined || rung(anchor) > 0);
      anchor.onclick = (event) => {
        if (!anchor.classList.contains("moves-the-diff") || event.ctrlKey || event.metaKey || event.shiftKey) {
          return;
        }
        event.preventDefault();
        if (rung(anchor) > 0) {
          [choice.before.value, choice.after.value] = names.slice(rung(anchor) - 1, rung(anchor) + 1);
          choose();
        } else {
          show(file(anchor), anchor.textContent);
        }
      };
    }
    for (const code of article.querySelectorAll("code.literal, button.moves-the-diff")) {
      const name = code.textContent;
      const found = Object.keys(data.functions).find((file) => name in data.functions[file]);
      if (code.closest("a") || (code.tagName === "CODE" && (!found || code.closest("button")))) {
        continue;
      }
      if (code.tagName === "BUTTON") {
        code.disabled = !found;
        code.onclick = () => show(found, name);
      } else {
        const button = element("button", {type: "button", className: "moves-the-diff"});
        button.onclick = () => show(found, name);
        code.replaceWith(button);
        button.append(code);
      }
    }
  }

  const query = new URLSearchParams(location.search);
  for (const name of ["before", "after"]) {
    if (names.includes(query.get(name))) {
      choice[name].value = query.get(name);
    }
    choice[name].addEventListener("change", () => {
      choose();
      if (!article) {
        history.replaceState(null, "", `?before=${choice.before.value}&after=${choice.after.value}`);
      }
    });
  }
  choice.sides.checked = pane.clientWidth >= 1000;
  choice.sides.addEventListener("change", draw);
  new MutationObserver(paint).observe(document.body, {attributes: true, attributeFilter: ["data-theme"]});
  choose();
})();
