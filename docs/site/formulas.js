// Formulas to HTML, a JSON line in, a JSON line out: no page needs a script to show its formulas.
const katex = require("katex");
const lines = require("readline").createInterface({input: process.stdin});
lines.on("line", (line) => {
  const {tex, display} = JSON.parse(line);
  let answer;
  try {
    answer = {html: katex.renderToString(tex, {displayMode: display})};
  } catch (error) {
    answer = {error: error.message};
  }
  console.log(JSON.stringify(answer));
});
