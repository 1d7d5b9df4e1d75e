// The front page: three ways to compute the same sums, one step at a time. All numbers stand in the page already; this
// script takes the sums away, lets them build again, and lights up what takes part.
"use strict";
(() => {
  const {picture, kernels} = JSON.parse(document.getElementById("data").textContent);
  const lab = document.getElementById("lab");
  const [KERNEL, CHANNELS, OUT] = [kernels[0].length, picture[0][0].length, kernels.length];
  const [HEIGHT, WIDTH] = [picture.length - KERNEL + 1, picture[0].length - KERNEL + 1];
  const WEIGHTS = KERNEL * KERNEL * CHANNELS;
  const all = (count) => [...Array(count).keys()];

  // A step's place in loops of these sizes, outermost first: the digits of its number.
  const digits = (step, sizes) => sizes.reduceRight(([rest, found], size) =>
    [Math.floor(rest / size), [rest % size, ...found]], [step, []])[1];

  // Weight k of a kernel belongs to row i and column j of the window, and to a channel.
  const tap = (k) => digits(k, [KERNEL, KERNEL, CHANNELS]);

  // Each way: the sizes of its loops, how many steps make a window, and what a step multiplies: one pixel's number at
  // (row + i, column + j, channel) by a weight of each of the kernels `outs`.
  const VIEWS = {
    loops: {
      sizes: [HEIGHT, WIDTH, OUT, KERNEL, KERNEL, CHANNELS],
      window: OUT * WEIGHTS,
      at: ([row, column, out, i, j, channel]) => ({row, column, outs: [out], i, j, channel}),
    },
    im2col: {
      sizes: [HEIGHT * WIDTH, WEIGHTS],
      window: WEIGHTS,
      at: ([place, k]) => {
        const [row, column] = digits(place, [HEIGHT, WIDTH]);
        const [i, j, channel] = tap(k);
        return {row, column, outs: all(OUT), i, j, channel, place, k};
      },
    },
    tile: {
      sizes: [HEIGHT, WEIGHTS, WIDTH],
      window: WIDTH,  // a weight for all pixels of the tile
      at: ([row, k, column]) => {
        const [i, j, channel] = tap(k);
        return {row, column, outs: all(OUT), i, j, channel, k};
      },
    },
  };
  for (const view of Object.values(VIEWS)) {
    view.steps = view.sizes.reduce((product, size) => product * size, 1);
  }

  let name = "loops";
  let done = 0;  // steps
  let playing = false;

  const value = (at) => picture[at.row + at.i][at.column + at.j][at.channel];
  const weight = (at, out) => kernels[out][at.i][at.j][at.channel];
  const step = (number) => VIEWS[name].at(digits(number, VIEWS[name].sizes));

  // All sums after so many steps, undefined where none has begun: few enough to start from nothing each time.
  function sums() {
    const result = all(HEIGHT).map(() => all(WIDTH).map(() => all(OUT).map(() => undefined)));
    for (let number = 0; number < done; number++) {
      const at = step(number);
      for (const out of at.outs) {
        result[at.row][at.column][out] = (result[at.row][at.column][out] ?? 0) + value(at) * weight(at, out);
      }
    }
    return result;
  }

  const cells = (table) => [...table.rows].map((row) => [...row.querySelectorAll("td")]);
  const tables = (selector) => [...lab.querySelectorAll(selector)].map(cells);
  const planes = tables("#planes table");
  const weights = all(OUT).map((out) => tables(`.kernel:nth-of-type(${out + 1}) table`));
  const outputs = tables("#output table");
  const [matrix] = tables("table.matrix");
  const [columns] = tables("table.weights");
  const registers = all(WIDTH).map((pixel) => all(OUT / 2).map((vector) => lab.querySelector(`[data-sum="${pixel} ${vector}"]`)));
  const index = (loop) => lab.querySelector(`[data-index="${loop}"]`);
  const write = (id, text) => { document.getElementById(id).textContent = text; };

  const light = (cell, how = "lit") => cell.classList.add(how);

  function draw() {
    const at = step(Math.max(done - 1, 0));  // the step just done
    const result = sums();
    lab.querySelectorAll(".lit, .window, .done, .building").forEach((cell) =>
      cell.classList.remove("lit", "window", "done", "building"));
    lab.querySelectorAll(".view").forEach((view) => { view.hidden = view.id !== name; });
    lab.querySelectorAll("[data-view]").forEach((button) =>
      button.setAttribute("aria-pressed", button.dataset.view === name));
    lab.querySelector("[data-do=play]").setAttribute("aria-pressed", playing);

    // The window: of one place, or, in a tile, the pixels that one weight meets.
    for (const plane of planes) {
      for (const i of all(KERNEL)) {
        for (const j of name === "tile" ? all(WIDTH + KERNEL - 1) : all(KERNEL)) {
          light(plane[at.row + i][(name === "tile" ? 0 : at.column) + j], "window");
        }
      }
    }
    outputs.forEach((table, out) => table.forEach((row, r) => row.forEach((cell, c) => {
      cell.textContent = result[r][c][out] ?? "";
    })));
    if (done) {
      light(planes[at.channel][at.row + at.i][at.column + at.j]);
      for (const out of at.outs) {
        light(weights[out][at.channel][at.i][at.j]);
        light(outputs[out][at.row][at.column], "building");
      }
    }
    ({loops: drawLoops, im2col: drawMatrix, tile: drawTile})[name](at, result);
  }

  function drawLoops(at, result) {
    const now = {picture: 0, row: at.row, column: at.column, out: at.outs[0], i: at.i, j: at.j, channel: at.channel};
    const before = done > 1 ? step(done - 2) : undefined;
    for (const [loop, number] of Object.entries(now)) {
      const line = index(loop).closest("li");
      index(loop).textContent = done ? `${loop} = ${number}` : "";
      const old = before && (loop === "out" ? before.outs[0] : loop === "picture" ? 0 : before[loop]);
      if (done && old !== number) {
        light(line);
      }
    }
    const count = done ? (done - 1) % WEIGHTS + 1 : 0;
    const terms = all(count).map((k) => {
      const one = step(done - count + k);
      const factor = weight(one, one.outs[0]);
      return `${value(one)}·${factor < 0 ? `(${factor})` : factor}`.replace("-", "−");
    });
    write("terms", count ? `${terms.join(" + ")} = ${result[at.row][at.column][at.outs[0]]}`.replace("= -", "= −") : "");
  }

  function drawMatrix(at) {
    matrix.forEach((row, place) => row.forEach((cell, k) => {
      const copied = place * WEIGHTS + k < done;
      cell.textContent = copied ? picture[Math.floor(place / WIDTH) + tap(k)[0]][place % WIDTH + tap(k)[1]][tap(k)[2]] : "";
      if (copied && place === at.place) {
        light(cell, "window");
      }
    }));
    if (done) {
      light(matrix[at.place][at.k]);
      columns.forEach((row) => light(row[at.k]));
      const cell = matrix[at.place][at.k], box = cell.closest(".wide"); // scroll the matrix alone, not the page
      const left = cell.getBoundingClientRect().left - box.getBoundingClientRect().left;
      if (left < 0 || left + cell.offsetWidth > box.clientWidth) {
        box.scrollLeft += left - box.clientWidth / 2;
      }
    }
  }

  function drawTile(at, result) {
    const signed = (number) => `${number}`.replace("-", "−");
    for (const vector of all(OUT / 2)) {
      const pair = [0, 1].map((lane) => weight(at, 2 * vector + lane));
      lab.querySelector(`[data-weight="${vector}"]`).textContent = done ? pair.map(signed).join(", ") : "";
      for (const pixel of all(WIDTH)) {
        const cell = registers[pixel][vector];
        const now = [0, 1].map((lane) => result[at.row][pixel][2 * vector + lane]);
        cell.textContent = now[0] === undefined ? "0, 0" : now.map(signed).join(", ");
        if (done && pixel === at.column) {
          light(cell);
        }
      }
    }
    for (const pixel of all(WIDTH)) {
      lab.querySelector(`[data-pixel="${pixel}"]`).textContent = done && pixel === at.column ? value(at) : "";
    }
    const panels = Math.ceil(done / WIDTH);
    write("loads", `${2 * panels + done}.`);
    write("adds", `${2 * done}.`);
  }

  function go(number) {
    done = Math.min(Math.max(number, 0), VIEWS[name].steps);
    playing &&= done < VIEWS[name].steps;
    draw();
  }

  const ACTIONS = {
    start: () => go(0),
    back: () => go(done - 1),
    step: () => go(done + 1),
    window: () => go((Math.floor(done / VIEWS[name].window) + 1) * VIEWS[name].window),
    play: () => {
      playing = !playing;
      if (playing && done === VIEWS[name].steps) {
        done = 0;
      }
      last = undefined;
      draw();
      requestAnimationFrame(tick);
    },
  };

  function choose(view) {
    name = view;
    playing = false;
    go(0);
  }

  // From one step a second to a thousand.
  let last;
  function tick(now) {
    if (!playing) {
      return;
    }
    const rate = 2 ** Number(lab.querySelector("[name=speed]").value);
    last ??= now;
    const steps = Math.floor((now - last) * rate / 1000);
    if (steps) {
      last = now;
      go(done + steps);
    }
    requestAnimationFrame(tick);
  }

  const KEYS = {ArrowRight: "step", ArrowLeft: "back", ArrowDown: "window", " ": "play", Home: "start"};
  lab.addEventListener("keydown", (event) => {
    const typing = event.target.closest("input, select, textarea, summary, a") || (event.target.closest("button") && event.key === " ");
    if (typing || event.ctrlKey || event.metaKey || event.altKey) {
      return;
    }
    const view = Object.keys(VIEWS)[Number(event.key) - 1];
    if (view) {
      choose(view);
    } else if (KEYS[event.key]) {
      event.preventDefault();
      ACTIONS[KEYS[event.key]]();
    }
  });
  lab.querySelectorAll("[data-do]").forEach((button) => button.addEventListener("click", ACTIONS[button.dataset.do]));
  lab.querySelectorAll("[data-view]").forEach((button) => button.addEventListener("click", () => choose(button.dataset.view)));
  lab.querySelector(".controls").hidden = false;
  draw();
})();
