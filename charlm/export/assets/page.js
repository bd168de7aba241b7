// The page: records at a click and a list of those to keep, or a text that goes on.

const $ = (id) => document.getElementById(id);
const model = new Model(JSON.parse($("model").textContent));
const FRAME_MS = 12; // Work between two frames, so that the page reacts.
const PER_CLICK = 20;
const TYPING_PAUSE_MS = 900; // Typing with longer pauses is undone in parts.
const MAX_LISTED = 8; // Unknown characters or words that a message lists.
const MAX_ATTEMPTS = 50; // Texts that are written for each new one.

/** Return an element; children are elements, or text that is never read as markup. */
function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

const isControlEnter = (event) => event.key === "Enter" && (event.ctrlKey || event.metaKey);
const plural = (count, noun) => `${count} ${noun}${count === 1 ? "" : "s"}`;

function say(message) {
  $("status").textContent = message;
}

/* ---- Settings. The object is passed to a text that is being written, so changes act at once. */

const DEFAULTS = { temperature: 0.8, topK: 0, topP: 1, minP: 0, seed: 1 };
const LARGEST = { temperature: 2, topK: 1e6, topP: 1, minP: 1, seed: 2 ** 53 - 1 };
const settings = { ...DEFAULTS };

function showSettings() {
  for (const name of Object.keys(DEFAULTS)) {
    $(name).value = settings[name];
    const output = $(`${name}-value`);
    if (output) output.textContent = settings[name].toFixed(2);
  }
}

function changeSetting(name, text) {
  const value = Number(text);
  const isWhole = name === "topK" || name === "seed";
  if (text === "" || !(value >= 0 && value <= LARGEST[name]) || (isWhole && value % 1)) return;
  settings[name] = value;
  const output = $(`${name}-value`);
  if (output) output.textContent = value.toFixed(2);
  if (name === "seed") restart();
}

function openSettings(isOpen) {
  $("settings").hidden = !isOpen;
  document.body.classList.toggle("open", isOpen);
  $("open-settings").setAttribute("aria-expanded", isOpen);
  $(isOpen ? "temperature" : "open-settings").focus();
}

/* ---- Work in slices: `step` returns whether there is more to do. */

let stopWork = null;

function work(step, finish, show = () => {}) {
  let frame = 0;
  const run = () => {
    const until = performance.now() + FRAME_MS;
    let isRunning = true;
    while (isRunning && performance.now() < until) isRunning = step();
    show();
    if (isRunning) frame = requestAnimationFrame(run);
    else end();
  };
  const end = () => {
    cancelAnimationFrame(frame);
    stopWork = null;
    showRunning(false);
    finish();
  };
  stopWork = end;
  showRunning(true);
  say("");
  run();
}

function showRunning(isRunning) {
  $("go").textContent = isRunning ? "Stop" : $("go").dataset.label;
}

/** Tell which characters or words of a prompt the model does not know. */
function showUnknown(prompt) {
  const { unknown } = model.readPrompt(prompt);
  const listed = unknown.slice(0, MAX_LISTED).map((text) => `“${text}”`);
  if (unknown.length > MAX_LISTED) listed.push("…");
  const message = `The model does not know ${listed.join(", ")}. It reads this as unknown.`;
  $("unknown").textContent = unknown.length ? message : "";
}

/* ---- Records. */

const CRC_TABLE = Uint32Array.from({ length: 256 }, (_, n) => {
  for (let k = 0; k < 8; k++) n = n & 1 ? (n >>> 1) ^ 0xedb88320 : n >>> 1;
  return n;
});

/** Return the CRC-32 of a text in UTF-8. */
function crc32(text) {
  let crc = -1;
  for (const byte of new TextEncoder().encode(text)) {
    crc = (crc >>> 8) ^ CRC_TABLE[(crc ^ byte) & 255];
  }
  return ~crc >>> 0;
}

function makeRecords() {
  const hashes = $("training-hashes");
  const bytes = hashes && bytesOfBase64(hashes.textContent);
  const known = new Set(bytes && new Uint32Array(bytes.buffer));
  const seen = new Set();
  const kept = [];
  let number = 0;

  const isNew = (text) => {
    const result = !seen.has(text) && !known.has(crc32(text));
    seen.add(text);
    return result;
  };

  function start() {
    const onlyNew = Boolean(hashes) && $("only-new").checked;
    const prompt = $("prompt").value;
    const found = [];
    let attempts = 0;
    let current = null;
    const begin = () => model.write(Object.assign(settings, { prompt, number: number++ }));
    const startedAt = performance.now();
    work(
      () => {
        current ??= { tokens: begin(), text: prompt };
        const { done, value } = current.tokens.next();
        if (!done) {
          current.text = value.text;
          return true;
        }
        attempts += 1;
        if (!onlyNew || isNew(current.text)) found.push(current.text);
        current = null;
        return found.length < PER_CLICK && attempts < PER_CLICK * MAX_ATTEMPTS;
      },
      () => {
        $("records").prepend(...found.map(recordItem));
        const seconds = ((performance.now() - startedAt) / 1000).toFixed(2);
        const others = attempts - found.length;
        const leftOut = others ? ` Left out: ${others} in the training text or repeated.` : "";
        say(`${plural(found.length, "record")} in ${seconds} seconds.${leftOut}`);
      },
    );
  }

  function recordItem(text) {
    const attributes = { class: "btn keep", type: "button", "aria-pressed": "false" };
    const button = element("button", { ...attributes, "aria-label": `Keep ${text}` }, "Keep");
    button.addEventListener("click", () => {
      const at = kept.indexOf(text);
      if (at < 0) kept.push(text);
      else kept.splice(at, 1);
      button.setAttribute("aria-pressed", at < 0);
      button.textContent = at < 0 ? "Kept" : "Keep";
      showKept();
    });
    return element("li", {}, recordText(text), button);
  }

  const recordText = (text) =>
    text
      ? element("span", { class: "record", dir: "auto" }, text)
      : element("span", { class: "record none" }, "an empty record");

  function showKept() {
    $("kept").replaceChildren(...kept.map((text) => element("li", {}, recordText(text))));
    $("kept-empty").hidden = kept.length > 0;
    $("kept-actions").hidden = kept.length === 0;
  }

  const keptText = () => kept.join(model.about.separator) + "\n";
  $("copy").addEventListener("click", async () => {
    try {
      await navigator.clipboard.writeText(keptText());
      say(`Copied ${plural(kept.length, "record")}.`);
    } catch {
      say("The browser does not allow copying; use Download.");
    }
  });
  $("download").addEventListener("click", () => {
    const url = URL.createObjectURL(new Blob([keptText()], { type: "text/plain" }));
    element("a", { href: url, download: "kept.txt" }).click();
    setTimeout(() => URL.revokeObjectURL(url), 1000);
  });
  $("prompt").addEventListener("input", () => showUnknown($("prompt").value));
  $("prompt").addEventListener("keydown", (event) => {
    if (event.key === "Enter" && !isControlEnter(event) && !stopWork) start();
  });
  return { start, restart: () => (number = 0) };
}

/* ---- A stream. */

/**
 * Undo and redo of typing and of texts that were written. A change by a program makes a browser
 * forget its own history.
 */
function makeHistory(area, changed) {
  const past = [];
  const future = [];
  let typedAt = -Infinity;

  const showButtons = () => {
    $("undo").disabled = past.length === 0;
    $("redo").disabled = future.length === 0;
  };
  const remember = () => {
    past.push(area.value);
    future.length = 0;
    typedAt = -Infinity;
    showButtons();
  };
  const move = (from, to) => {
    stopWork?.();
    if (!from.length) return;
    to.push(area.value);
    area.value = from.pop();
    typedAt = -Infinity;
    showButtons();
    changed();
    area.focus();
  };
  area.addEventListener("beforeinput", () => {
    if (performance.now() - typedAt > TYPING_PAUSE_MS) remember();
    typedAt = performance.now();
  });
  $("undo").addEventListener("click", () => move(past, future));
  $("redo").addEventListener("click", () => move(future, past));
  area.addEventListener("keydown", (event) => {
    if (!(event.ctrlKey || event.metaKey) || event.key.toLowerCase() !== "z") return;
    event.preventDefault();
    if (event.shiftKey) move(future, past);
    else move(past, future);
  });
  return { remember };
}

function makeStream() {
  const area = $("text");
  const history = makeHistory(area, () => showUnknown(area.value));
  let number = 0;
  let writing = null; // The text that can go on, while nobody has changed it.

  function start() {
    const before = area.value;
    if (writing?.text !== before) {
      Object.assign(settings, { prompt: before, number: number++, length: Infinity });
      writing = { tokens: model.write(settings), text: before };
    }
    const wanted = Number($("length").value);
    let startedAt = performance.now();
    let added = 0;
    history.remember();
    area.readOnly = true;
    work(
      () => {
        const { text, tokens } = writing.tokens.next().value;
        if (tokens === 0) startedAt = performance.now(); // The speed is that of writing.
        const length = Math.max(0, text.length - writing.text.length);
        const start = model.isBackward ? 0 : text.length - length;
        added += [...text.slice(start, start + length)].length;
        writing.text = text;
        return added < wanted;
      },
      () => {
        area.readOnly = false;
        const seconds = Math.max(1, performance.now() - startedAt) / 1000;
        const speed = Math.round(added / seconds).toLocaleString("en");
        say(`Wrote ${plural(added, "character")}${added ? `, ${speed} per second` : ""}.`);
      },
      () => {
        area.value = writing.text;
        area.scrollTop = model.isBackward ? 0 : area.scrollHeight;
      },
    );
  }

  area.addEventListener("input", () => showUnknown(area.value));
  return { start, restart: () => ((number = 0), (writing = null)) };
}

/* ---- Start. */

const view = model.writesRecords ? makeRecords() : makeStream();
const restart = () => view.restart();
function go() {
  if (stopWork) stopWork();
  else view.start();
}
$("go").addEventListener("click", go);
$("open-settings").addEventListener("click", () => openSettings($("settings").hidden));
$("close-settings").addEventListener("click", () => openSettings(false));
$("reset").addEventListener("click", () => {
  Object.assign(settings, DEFAULTS);
  showSettings();
  restart();
});
for (const name of Object.keys(DEFAULTS)) {
  $(name).addEventListener("input", (event) => changeSetting(name, event.target.value));
  $(name).addEventListener("change", showSettings); // A number that is refused is replaced.
}
addEventListener("keydown", (event) => {
  if (event.key === "Escape") {
    if (stopWork) stopWork();
    else if (!$("settings").hidden) openSettings(false);
  } else if (isControlEnter(event)) {
    event.preventDefault();
    go();
  }
});
showSettings();
if (model.writesRecords) go();
