// The plots of one machine, in the colours of the page.
"use strict";
(() => {
  const select = document.getElementById("machine");
  const machines = [...document.querySelectorAll(".machine")];

  function draw() {
    const style = getComputedStyle(document.body);
    const [ink, line] = ["--color-foreground-primary", "--color-background-border"].map((name) => style.getPropertyValue(name));
    machines.forEach((machine, place) => { machine.hidden = place !== Number(select.value); });
    for (const plot of machines[select.value].querySelectorAll(".plot")) {
      const {data, layout} = JSON.parse(plot.querySelector("script").textContent);
      const axis = {gridcolor: line, zerolinecolor: line, automargin: true};
      const target = plot.querySelector(".drawn") ?? plot.appendChild(Object.assign(document.createElement("div"), {className: "drawn"}));
      Plotly.react(target, data, {
        paper_bgcolor: "transparent", plot_bgcolor: "transparent", font: {color: ink},
        margin: {l: 20, r: 20, t: 10, b: 40}, legend: {orientation: "h", y: -0.2}, ...layout,
        showlegend: layout.showlegend && plot.clientWidth > 600,  // hovering names all there is
        xaxis: {...axis, ...layout.xaxis}, yaxis: {...axis, ...layout.yaxis},
      }, {responsive: true, displaylogo: false, displayModeBar: false});
    }
  }

  select.closest("p").hidden = machines.length < 2;
  select.addEventListener("change", draw);
  new MutationObserver(draw).observe(document.body, {attributes: true, attributeFilter: ["data-theme"]});
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
  draw();
})();
