/* What all views use: elements, numbers as text, and requests. */

export const $ = (selector, node = document) => node.querySelector(selector);
export const $$ = (selector, node = document) => [...node.querySelectorAll(selector)];

export function el(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name === 'class') node.className = value; else node.setAttribute(name, value);
  }
  node.append(...children);
  return node;
}

/* Invisible characters by their code; line ends, and spaces at an end, by a sign. Joiners and variation
   selectors shape the character before them, and are invisible without one. */
const INVISIBLE = /(?<!\S)[\u200c\u200d\ufe00-\ufe0f]|(?![\u200c\u200d])[\p{Cc}\p{Cf}\u2028\u2029\ufffe\uffff]/gu;
const code = c => '[U+' + c.codePointAt(0).toString(16).toUpperCase().padStart(4, '0') + ']';
export const flat = text => text.replaceAll('\n', '↵').replace(INVISIBLE, code);
export const shown = text => flat(text).replace(/^ | $/g, '␣') || '∅';
/* A text in quotation marks. U+2068 and U+2069 isolate it, so that Hebrew does not change the order of the sentence. */
export const quoted = text => `“\u2068${shown(text)}\u2069”`;
export function spoken(label) {
  const names = { ' ': 'space', '\n': 'line end', '\t': 'tab' };
  return names[label] ?? shown(label);
}
export const percent = p => p >= 0.0995 ? (100 * p).toFixed(0) + ' %' : p >= 0.001 ? (100 * p).toFixed(1) + ' %'
  : p > 0 ? '< 0.1 %' : '0 %';
export const count = n => n.toLocaleString('en');
export const plural = (n, unit) => `${count(n)} ${unit}${n === 1 ? '' : 's'}`;
export const clamp = (value, low, high) => Math.min(high, Math.max(low, value));
/* The first or last characters of a text: `slice` would divide those that are two units of a string. */
export const beginning = (text, most) => [...text.slice(0, 2 * most)].slice(0, most).join('');
export const ending = (text, most) => [...text.slice(-2 * most - 1)].slice(-most).join('');

export const SURPRISAL = [0, .5, 1, 2, 3, 4, 5, 7], MEMORY = [0, .05, .1, .2, .35, .5, .7, .9];
export function bin(value, edges) {
  let k = 0;
  while (k < edges.length - 1 && value >= edges[k + 1]) k++;
  return k;
}
export function scale(node, style, labels) {
  node.replaceChildren(...labels.map((label, k) => el('div', {}, el('b', { class: style + k }), el('span', {}, label))));
}

export const say = text => { $('#say').textContent = text; };

/* Requests. */
export class ServerError extends Error {
  constructor(message, status, param) {
    super(message);
    this.status = status;
    this.param = param;
  }
}
export const isAbort = error => error.name === 'AbortError';

async function send(path, body, signal) {
  const options = body === undefined ? { signal } : {
    method: 'POST', signal, headers: { 'Content-Type': 'application/json' }, body: JSON.stringify(body),
  };
  let response;
  try {
    response = await fetch(path, options);
  } catch (error) {
    if (isAbort(error)) throw error;
    throw new ServerError('The server does not answer. If it has stopped, start it again with charlm serve; this page keeps the text.', 0, null);
  }
  if (!response.ok) throw await errorOf(response);
  return response;
}
async function errorOf(response) {
  let error = {};
  try { error = (await response.json()).error ?? {}; } catch { /* The answer is not from charlm. */ }
  const message = {
    401: 'The server asks for its key. Reload the page, and enter the key as the password.',
    429: 'The server is busy. Try again in a moment.',
  }[response.status];
  return new ServerError(message ?? error.message ?? `The server answered with status ${response.status}.`, response.status, error.param ?? null);
}
export const get = async path => (await send(path)).json();
export const post = async (path, body, signal) => (await send(path, body, signal)).json();

/* The parts of a streamed completion, as server-sent events. */
export async function* events(path, body, signal) {
  const response = await send(path, body, signal);
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = '';
  for (;;) {
    let part;
    try { part = await reader.read(); } catch (error) {
      if (isAbort(error) || signal.aborted) throw new DOMException('', 'AbortError');
      throw new ServerError('The server ended the stream. The text so far is kept.', 0, null);
    }
    if (part.done) return;
    const blocks = (rest + part.value).split(/\r?\n\r?\n/);
    rest = blocks.pop();
    for (const block of blocks) {
      const data = block.split(/\r?\n/).filter(line => line.startsWith('data:')).map(line => line.slice(5).trim()).join('\n');
      if (!data) continue;
      if (data === '[DONE]') return;
      const value = JSON.parse(data);
      if (value.error) throw new ServerError(value.error.message, 0, value.error.param ?? null);
      yield value;
    }
  }
}

/* A problem of a request, until the same kind of request succeeds. `again` repeats what failed. */
let open = null;
export function problem(error, again, kind = again) {
  open = { again, kind };
  $('#problem-text').textContent = error.message;
  $('#problem-retry').hidden = !again;
  $('#problem').hidden = false;
}
export function solved(kind) {
  if (open && open.kind === kind) close();
}
function close() {
  open = null;
  $('#problem').hidden = true;
}
$('#problem-close').addEventListener('click', close);
$('#problem-retry').addEventListener('click', () => {
  const again = open?.again;
  close();
  again?.();
});

/* Run `work(signal, ...)` after `delay` milliseconds; a later call replaces an earlier one. */
export function latest(delay, work) {
  let timer = 0, controller = null;
  function schedule(...values) {
    cancel();
    timer = setTimeout(async () => {
      const own = controller = new AbortController();
      try {
        await work(own.signal, ...values);
        if (!own.signal.aborted) solved(schedule);
      } catch (error) {
        if (own.signal.aborted || isAbort(error)) return;
        if (!(error instanceof ServerError)) throw error;
        problem(error, () => schedule(...values), schedule);
      }
    }, delay);
  }
  function cancel() { clearTimeout(timer); controller?.abort(); }
  schedule.cancel = cancel;
  return schedule;
}

/* The most probable tokens as bars; the thin line is the probability before the settings. */
export function bars(list, rows, { take = null } = {}) {
  const focused = $$('button', list).indexOf(document.activeElement);
  const most = Math.max(.2, ...rows.map(row => Math.max(row.probability, row.model ?? 0)));
  const longest = Math.max(2, ...rows.map(row => [...shown(row.label)].length));
  list.style.setProperty('--label', Math.min(12, longest) + 'ch');
  list.replaceChildren(...rows.map((row, k) => {
    const bar = el('u'), line = el('s');
    bar.style.width = 100 * row.probability / most + '%';
    const box = el('span', { class: 'bx' }, bar);
    if (row.model !== undefined) { line.style.width = 100 * row.model / most + '%'; box.append(line); }
    const isCut = row.probability === 0, name = spoken(row.label);
    const parts = [el('kbd', {}, take && k < 10 ? String((k + 1) % 10) : ''), el('code', {}, shown(row.label)), box,
      el('span', { class: 'v' }, percent(row.probability))];
    const note = `${name}, ${percent(row.probability)}${isCut ? ', excluded by the settings' : ''}${row.isActual ? ', in the text' : ''}`;
    const style = [row.isActual && 'is', isCut && 'cut'].filter(Boolean).join(' ');
    if (!take) return el('li', { class: style }, el('div', { class: 'row' }, ...parts), el('span', { class: 'vh' }, note));
    const button = el('button', { type: 'button', class: 'row', 'aria-label': `Take ${note}` }, ...parts);
    button.disabled = !row.adds;
    button.tabIndex = -1;
    button.addEventListener('click', () => take(row));
    return el('li', { class: style }, button);
  }));
  if (!take) return;
  const buttons = $$('button', list), target = buttons[focused] ?? buttons.find(button => !button.disabled);
  if (target) target.tabIndex = 0;
  if (focused >= 0) target?.focus();
}
/* The browser uses an arrow with these keys: Alt and the left arrow return to the last page. */
export const isShortcut = event => event.altKey || event.ctrlKey || event.metaKey;
/* In a list of buttons arrow keys move, and Tab leaves the list. */
export function arrows(list) {
  list.addEventListener('keydown', event => {
    const buttons = $$('button:not(:disabled)', list), k = buttons.indexOf(document.activeElement);
    const to = { ArrowDown: k + 1, ArrowUp: k - 1, Home: 0, End: buttons.length - 1 }[event.key];
    if (k < 0 || !buttons[to] || isShortcut(event)) return;
    event.preventDefault();
    buttons[k].tabIndex = -1;
    buttons[to].tabIndex = 0;
    buttons[to].focus();
  });
}
