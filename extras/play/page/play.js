// The page: gets a picture from somewhere, asks the chosen versions one after the other, and shows what each answers.

const $ = (selector, root = document) => root.querySelector(selector);
const form = $("form"), say = (text) => ($("[role=status]").textContent = text);
let current = null; // the picture, a File, and what stops all that works on it
let stop = new AbortController();

function choose(file) {
  if (!file) return;
  current = file;
  const preview = $("#picture img");
  URL.revokeObjectURL(preview.src);
  preview.src = URL.createObjectURL(file);
  preview.hidden = false;
  preview.onerror = () => (preview.hidden = true); // not every picture that Pillow reads can be shown here
  run();
}

async function run() {
  stop.abort();
  const mine = (stop = new AbortController());
  $("main").replaceChildren();
  const chosen = new FormData(form).getAll("version");
  if (!current) return;
  if (current.size > form.dataset.limit) return say(`${current.name}: more than ${form.dataset.limit / 2 ** 20} MiB; refused`);
  say(chosen.length ? current.name : "Choose a version");
  const cards = chosen.map(newCard).sort((a, b) => (a.version === "v1_loops") - (b.version === "v1_loops"));
  const answers = [];
  for (const card of cards) {
    const answer = await ask(card, mine.signal);
    if (mine.signal.aborted) return;
    if (answer?.predictions) answers.push({ version: card.version, ...answer });
  }
  if (answers.length > 1) say(compare(answers));
}

function newCard(version) {
  const root = $("template").content.cloneNode(true).firstElementChild;
  root.id = version;
  $("h2", root).textContent = version;
  $(".state span", root).textContent = "is next";
  $("main").append(root);
  return { version, root };
}

// Ask one version; show each line of its answer as it comes, and return the last.
async function ask({ version, root }, signal) {
  const state = $(".state span", root), progress = $("progress", root), button = $("button", root);
  const stopped = new AbortController(), began = performance.now();
  button.onclick = () => stopped.abort();
  let message = { status: "waits" };
  const show = () => {
    const seconds = (performance.now() - began) / 1000, done = message.progress;
    state.textContent = message.error ?? (done
      ? `${message.layer}: ${(100 * done).toFixed(0)} %, ${duration(seconds)}, ${duration(seconds / done - seconds)} left`
      : `${message.status} (${duration(seconds)})`);
    progress.hidden = !done;
    progress.value = done ?? 0;
  };
  const clock = setInterval(show, 500);
  try {
    const options = { method: "POST", body: current, signal: AbortSignal.any([signal, stopped.signal]) };
    const response = await fetch(`classify/${version}?name=${encodeURIComponent(current.name)}`, options);
    if (!response.ok) throw new Error(`${current.name}: refused (${response.status} ${response.statusText})`);
    for await (const line of lines(response.body)) {
      message = JSON.parse(line);
      show();
    }
    if (!message.finished && !message.error) throw new Error("the server is gone");
  } catch (error) {
    message = { error: stopped.signal.aborted ? "stopped" : error.message };
    show();
  }
  clearInterval(clock);
  button.hidden = progress.hidden = true;
  state.classList.toggle("error", "error" in message);
  if (message.predictions) fill(root, message);
  return message;
}

async function* lines(body) {
  let rest = "";
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  for (let part; !(part = await reader.read()).done; ) {
    const whole = (rest + part.value).split("\n");
    rest = whole.pop();
    yield* whole;
  }
}

function fill(root, { predictions, latency_ms, layers, maps, weights, note }) {
  $(".state", root).hidden = true;
  $("div", root).hidden = false;
  $(".latency", root).textContent = duration(latency_ms / 1000);
  $(".weights", root).textContent = `weights: ${weights}${note && `; ${note}`}`;
  bars($(".predictions", root), predictions.map((p) => [p.label, p.probability, `${(100 * p.probability).toFixed(2)} %`]), 1);
  const longest = Math.max(...layers.map(([, ms]) => ms));
  bars($(".layers", root), layers.map(([name, ms]) => [name, ms, duration(ms / 1000)]), longest);
  $(".maps", root).replaceChildren(...maps.map(({ stage, shape, pictures }) => {
    const figure = document.createElement("figure"), caption = document.createElement("figcaption");
    caption.textContent = `${stage}: ${shape.join("×")}`;
    figure.append(caption, ...Object.entries(pictures).map(([channel, src]) =>
      Object.assign(new Image(), { src, alt: `${stage}, channel ${channel}`, title: `channel ${channel}` })));
    return figure;
  }));
}

function bars(list, rows, largest) {
  list.replaceChildren(...rows.map(([name, value, text]) => {
    const item = document.createElement("li");
    item.style.setProperty("--share", `${(100 * value) / largest}%`);
    for (const content of [name, text]) item.append(Object.assign(document.createElement("span"), { textContent: content }));
    return item;
  }));
}

function compare(answers) {
  const names = new Set(answers.map((answer) => answer.predictions.map((p) => p.label).join("\n")));
  const [fast, slow] = answers.sort((a, b) => a.latency_ms - b.latency_ms).filter((_, i, all) => i % (all.length - 1) === 0);
  const times = slow.latency_ms / fast.latency_ms;
  return `${names.size > 1 ? "Not all the same five names" : "The same five names"}; ${fast.version} is ` +
    `${times.toFixed(times < 10 ? 2 : 0)} times as fast as ${slow.version}`;
}

function duration(seconds) {
  if (seconds < 0.9995) return `${(1000 * seconds).toPrecision(3)} ms`;
  if (seconds < 99.95) return `${seconds.toPrecision(3)} s`;
  const whole = Math.round(seconds);
  return `${Math.floor(whole / 60)} min ${whole % 60} s`;
}

async function takePicture() {
  const video = $("video"), button = $("#camera");
  if (video.hidden) {
    try {
      video.srcObject = await navigator.mediaDevices.getUserMedia({ video: true });
    } catch (error) { // there is no mediaDevices at all where the page is neither local nor https
      return say(`no camera: ${error.message}`);
    }
    await video.play();
  } else {
    const canvas = Object.assign(document.createElement("canvas"), { width: video.videoWidth, height: video.videoHeight });
    canvas.getContext("2d").drawImage(video, 0, 0);
    canvas.toBlob((blob) => choose(new File([blob], "camera.png")));
    for (const track of video.srcObject.getTracks()) track.stop();
  }
  video.hidden = !video.hidden;
  button.textContent = video.hidden ? "Use the camera" : "Take the picture";
}

$("#camera").onclick = takePicture;
$("[type=file]").onchange = (event) => choose(event.target.files[0]);
for (const box of form.querySelectorAll("[name=version]")) box.onchange = run;
for (const button of form.querySelectorAll(".sample")) {
  button.onclick = async () => choose(new File([await (await fetch(`samples/${button.value}`)).blob()], button.value));
}
document.onpaste = (event) => choose(event.clipboardData.files[0]);
document.ondragover = (event) => { event.preventDefault(); $("#drop").classList.add("over"); };
document.ondragleave = () => $("#drop").classList.remove("over");
document.ondrop = (event) => {
  event.preventDefault();
  $("#drop").classList.remove("over");
  choose(event.dataTransfer.files[0]);
};
