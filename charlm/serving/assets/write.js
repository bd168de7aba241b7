/* The view Write: a text, its surprisal, what may come next, and branches. */
import { $, $$, arrows, bars, bin, count, el, ending, events, flat, isAbort, latest, percent, plural, post, problem, quoted, say, scale,
  shown, solved, SURPRISAL } from './shared.js';
import { MAX_BRANCHES, S, filters, limits, run, save, text, unit } from './state.js';
import { commonEnd, commonStart, copiedCharacters, findCopies, known, points, read, totalBits } from './reading.js';

const MAX_STEPS = 200, TYPING_PAUSE = 900, BRANCH_SHOWN = 240, BRANCH_CONTEXT = 14;
const area = $('#text'), back = $('#back');
let running = null;  // The continuation that is being written.
let panel = null;  // What the list of alternatives shows: the text, and the answer of the server.
let last = null;  // The reading that was drawn last.

/* Undo. A browser's own history ends at the first change by a script. */
const past = [], future = [];
let typed = 0;
const snapshot = () => ({ br: S.br.map(branch => ({ ...branch })), cur: S.cur, at: area.selectionStart });
function remember() {
  past.push(snapshot());
  if (past.length > MAX_STEPS) past.shift();
  future.length = 0;
  typed = 0;
}
function travel(from, to, what) {
  if (!from.length || running) return;
  to.push(snapshot());
  const found = from.pop();
  S.br = found.br;
  S.cur = found.cur;
  typed = 0;
  put(text(), Math.min(found.at, text().length));
  say(what);
}
/* Return to the last snapshot, as if nothing had happened since. */
function restoreLast() {
  const found = past.pop();
  S.br = found.br;
  S.cur = found.cur;
  put(text(), Math.min(found.at, text().length));
}
const undo = () => travel(past, future, 'Undone');
const redo = () => travel(future, past, 'Redone');

function put(value, at = value.length) {
  S.br[S.cur].t = value;
  if (area.value !== value) area.value = value;
  area.setSelectionRange(at, at);
  changed();
}
/* Everything that follows a change of the text. */
function changed() {
  outdate();
  draw();
  branches();
  save();
  refresh();
}
const refresh = latest(40, async signal => {
  await read(text(), signal);
  draw();
  branches();
  await ask(signal);
  copies();
});
const copies = latest(250, async signal => {
  const reading = known(text());
  if (!reading || running) return;
  await findCopies(reading, signal);
  note(reading.reason);
  draw();
});
const asks = latest(30, signal => ask(signal));
/* The list is of another text or position, so that nothing is taken from it. */
function outdate() {
  panel = null;
  $('#alts').setAttribute('aria-busy', 'true');
}

/* The text: coloured cells below the transparent text of the text area. */
let drawn = [];
function items() {
  const value = text(), reading = known(value);
  if (reading) { last = reading; return describe(reading.cells, reading.copies, value); }
  return describe(carried(value), null, value);
}
/* Until the new reading is there: the colours of what has not changed. */
function carried(value) {
  if (!last || last.run !== S.run) return [];
  const same = commonStart(last.text, value), shift = value.length - last.text.length;
  const end = last.text.length - commonEnd(last.text, value, same);
  const kept = last.cells.filter(cell => cell.end <= same);
  const moved = last.cells.filter(cell => cell.start >= end);
  return [...kept, ...moved.map(cell => ({ ...cell, start: cell.start + shift, end: cell.end + shift }))];
}
function describe(cells, copies, value) {
  const at = area.selectionStart, fork = S.br[S.cur].f, list = [];
  let end = 0, copy = 0;
  const plain = to => { if (to > end) list.push({ text: value.slice(end, to), style: '' }); };
  for (const cell of cells) {
    plain(cell.start);
    while (copies && copy < copies.length && copies[copy][1] <= cell.start) copy++;
    const isCopied = copies?.[copy] && copies[copy][0] <= cell.start && cell.end <= copies[copy][1];
    const style = [
      cell.isUnknown ? 'unk' : 'u' + bin(cell.bits, SURPRISAL), isCopied && 'copy', cell.text.includes('\n') && 'nl',
      fork && cell.start <= fork && fork < cell.end && 'fork',
      !running && at < value.length && cell.start <= at && at < cell.end && 'at',
    ].filter(Boolean).join(' ');
    list.push({ text: cell.text, style });
    end = cell.end;
  }
  plain(value.length);
  return list;
}
/* A block per line, so that a browser lays out only the lines that change. */
function linesOf(list) {
  const lines = [[]];
  for (const item of list) {
    lines.at(-1).push(item);
    if (item.text.endsWith('\n')) lines.push([]);
  }
  return lines;
}
const sameItem = (one, other) => one.text === other.text && one.style === other.style;
const sameLine = (one, other) => one.length === other.length && one.every((item, k) => sameItem(item, other[k]));
function draw() {
  const lines = linesOf(items()), [a, b] = common(drawn, lines, sameLine);
  if (drawn.length === lines.length && a + b === lines.length - 1) {
    replace(back.children[a], drawn[a], lines[a], sameItem, node);
  } else replace(back, drawn, lines, sameLine, block);
  drawn = lines;
  status();
  controls();
}
/* The numbers of elements that two lists have in common at their beginnings and ends. */
function common(old, list, same) {
  const most = Math.min(old.length, list.length);
  let a = 0, b = 0;
  while (a < most && same(list[a], old[a])) a++;
  while (b < most - a && same(list[list.length - 1 - b], old[old.length - 1 - b])) b++;
  return [a, b];
}
function replace(parent, old, list, same, make) {
  const [a, b] = common(old, list, same), added = document.createDocumentFragment();
  if (!old.length) parent.replaceChildren();
  for (let k = old.length - b - a; k > 0; k--) parent.childNodes[a].remove();
  added.append(...list.slice(a, list.length - b).map(make));
  parent.insertBefore(added, parent.childNodes[a] ?? null);
  if (!list.length) parent.append('\u200b');
}
const node = ({ text, style }) => el('i', style ? { class: style } : {}, text);
const block = line => el('div', { dir: 'auto' }, ...line.length ? line.map(node) : ['\u200b']);
function status() {
  const value = text(), reading = known(value);
  if (!value) { $('#status').textContent = 'Empty text'; return; }
  const length = points(value, value.length), parts = [plural(length, 'character')];
  if (value.length >= limits.characters) parts.push('the most that the page holds');
  if (reading?.cells.length) {
    parts.push(`${(totalBits(reading.cells) / length).toFixed(2)} bits per character`);
    const copied = copiedCharacters(reading), unknown = reading.cells.filter(cell => cell.isUnknown).length;
    if (copied) parts.push(`${count(copied)} copied from the training text`);
    if (unknown) parts.push(`${plural(unknown, unit())} not known to the model`);
  }
  $('#status').textContent = parts.join(', ');
}
function controls() {
  const inside = area.selectionStart < text().length;
  $('#go').textContent = running ? 'Stop' : inside ? 'Continue here' : 'Continue';
  $('#undo').disabled = !past.length || !!running;
  $('#redo').disabled = !future.length || !!running;
}
function note(reason) {
  $('#copy-note').textContent = reason ? `Copies cannot be found: ${reason}.`
    : '0 sets no limit. Passages of 20 or more characters from the training text are underlined.';
  $('#s-c').disabled = !!reason;
}

/* What may come next at the caret, or instead of the token at the caret. */
async function ask(signal) {
  if (running) return;
  const value = text(), at = area.selectionStart;
  const answer = await post('/page/next', {
    model: S.run, text: value, at: at >= value.length ? null : points(value, at), ...filters(),
    ...copyLimit(),
  }, signal);
  if (value !== text()) return;
  panel = { text: value, at, answer, start: at >= value.length ? value.length : startOf(value, answer.start) };
  showPanel();
}
const copyLimit = () => S.set.c > 0 && !$('#s-c').disabled ? { max_copy: S.set.c } : {};
function startOf(value, start) {
  return [...value].slice(0, start).join('').length;
}
function showPanel() {
  const { text: value, answer, start } = panel, actual = answer.actual;
  const before = value.slice(0, start);
  $('#nx').textContent = actual ? `Instead of ${quoted(value.slice(start, start + 1) && actual.label)}` : `Next ${unit()}`;
  $('#ctx').textContent = before ? flat(ending(before, 34)) : 'at the beginning';
  const rows = answer.candidates.map(row => ({ ...row, model: row.model_probability, isActual: row.token === actual?.token }));
  if (actual && actual.token !== 1 && !rows.some(row => row.isActual)) rows.push({ ...actual, model: actual.model_probability, isActual: true });
  bars($('#alts'), rows, { take });
  $('#alts').removeAttribute('aria-busy');
  const bits = p => p > 0 ? (-Math.log2(p)).toFixed(2) + ' bits' : '–';
  const facts = actual
    ? [['surprisal', bits(actual.model_probability)], ['rank', `${count(actual.rank)} of ${count(answer.writable)}`]]
    : [['possible now', `${count(answer.possible)} of ${count(answer.writable)}`]];
  facts.push(['entropy', answer.entropy_bits.toFixed(2) + ' bits']);
  $('#facts').replaceChildren(...facts.map(([name, text]) => el('div', {}, el('dt', {}, name), el('dd', {}, text))));
  hint(answer, actual);
  announce(actual, rows);
}
function hint(answer, actual) {
  const touch = matchMedia('(pointer:coarse)').matches;
  const how = actual ? `Taking another ${unit()} starts a branch; this text is kept.`
    : touch ? `Tap a ${unit()} to take it.` : `Click, or press Alt and the number, to take a ${unit()}.`;
  const cut = answer.candidates.some(row => row.probability === 0) ? ` Those with 0 % are excluded by the settings.` : '';
  $('#nhint').textContent = answer.possible ? how + cut : `The settings allow no ${unit()} here.`;
}
/* A screen reader hears the panel when typing and moving have paused. */
let announcement = 0;
function announce(actual, rows) {
  clearTimeout(announcement);
  announcement = setTimeout(() => {
    const list = rows.slice(0, 3).map(row => `${row.label === ' ' ? 'space' : shown(row.label)} ${percent(row.probability)}`).join(', ');
    if (S.tab === 'write' && !running) say(`${$('#nx').textContent}: ${list}`);
  }, 1200);
}
function take(row) {
  if (running || !panel || panel.text !== text() || !row.adds) return;
  const { text: value, start } = panel, isInside = !!panel.answer.actual;
  if (isInside && row.isActual) { area.focus(); put(value, Math.min(value.length, start + row.adds.length)); return; }
  if (isInside && !canFork()) return;
  const taken = value.slice(0, start) + row.adds;
  if (taken.length > limits.characters) { tellFull(); return; }
  remember();
  if (isInside) { fork(start, taken); say(`Branch ${S.br.length} started`); }
  put(taken);
  area.focus({ preventScroll: true });
}

function tellFull() {
  problem(new Error(`The page holds at most ${count(limits.characters)} characters. Begin another text, or remove a part of this one.`));
}

/* Branches. */
function canFork() {
  if (S.br.length < MAX_BRANCHES) return true;
  problem(new Error(`The page keeps at most ${MAX_BRANCHES} branches. Remove one.`));
  return false;
}
function fork(at, value) {
  S.br.push({ t: value, f: at });
  S.cur = S.br.length - 1;
}
const missing = latest(150, async signal => {
  for (const branch of S.br) if (!known(branch.t)) await read(branch.t, signal);
  branches();
});
function branches() {
  const box = $('#branches');
  box.hidden = S.br.length < 2;
  if (box.hidden || running) return;
  const first = Math.min(...S.br.filter(branch => branch.f).map(branch => branch.f));
  $('#blist').replaceChildren(...S.br.map((branch, k) => branchItem(branch, k, branch.f || (Number.isFinite(first) ? first : 0))));
  if (S.br.some(branch => !known(branch.t))) missing();
}
function branchItem(branch, k, from) {
  const name = k ? `Branch ${k + 1}` : 'First text';
  const radio = el('input', { type: 'radio', name: 'br', id: 'br' + k });
  radio.checked = k === S.cur;
  radio.addEventListener('change', () => choose(k));
  const remove = el('button', { class: 'x', type: 'button', 'aria-label': `Remove ${name.toLowerCase()}` }, 'Remove');
  remove.addEventListener('click', () => removeBranch(k));
  const reading = known(branch.t), cells = reading?.cells.filter(cell => cell.end > from) ?? [];
  const length = points(branch.t.slice(from), branch.t.length - from);
  const bits = cells.length && length ? `, ${(totalBits(cells) / length).toFixed(2)} bits each` : '';
  const line = el('div', { class: 'tx', dir: 'auto' }, el('span', { class: 'mut' }, '…' + flat(ending(branch.t.slice(0, from), BRANCH_CONTEXT))));
  if (reading) line.append(...cells.slice(0, BRANCH_SHOWN).map(cell => el('i', { class: 'u' + bin(cell.bits, SURPRISAL) }, flat(cell.text))));
  else line.append(flat(branch.t.slice(from, from + BRANCH_SHOWN)));
  const words = el('span', {}, el('label', { for: 'br' + k }, name),
    ` from character ${count(points(branch.t, from) + 1)}: ${plural(length, 'character')}${bits}`);
  return el('li', {}, radio, words, remove, line);
}
function choose(k) {
  if (running) return;
  remember();
  S.cur = k;
  put(text());
  $('#br' + k)?.focus();
}
function removeBranch(k) {
  if (running) return;
  remember();
  S.br.splice(k, 1);
  if (S.cur > k || S.cur >= S.br.length) S.cur = Math.max(0, S.cur - 1);
  put(text());
  say('Branch removed');
  ($$('#blist .x')[Math.min(k, S.br.length - 1)] ?? area).focus();
}

/* Continue. */
async function go() {
  if (running) { stop(); return; }
  if (run().unavailable.write) return;
  const value = text(), at = cut();
  if (at < value.length && !canFork()) return;
  remember();
  if (at < value.length) fork(at, value.slice(0, at));
  const from = text().length, own = running = new AbortController();
  area.readOnly = true;
  clearTimeout(announcement);
  refresh.cancel();
  regexProblem('');
  let reason = null, ended = null;
  say('Writing');
  draw();
  try {
    for await (const part of events('/v1/completions', request(), own.signal)) {
      const choice = part.choices?.[0];
      if (!choice) continue;
      ended = choice.finish_reason ?? ended;
      append(choice.text);
    }
    solved(go);
  } catch (error) {
    if (!isAbort(error) && !own.signal.aborted) reason = error;
  }
  finish(from, ended, reason);
}
/* The position at which Continue begins: never within a token. */
function cut() {
  const value = text(), at = area.selectionStart;
  return known(value)?.cells.find(cell => cell.start <= at && at < cell.end)?.start ?? at;
}
function request() {
  const { r, s } = S.set, value = text(), { separator } = run();
  const records = separator ? value.split(separator) : [value];
  // Another branch from the same place, and another record, get other random numbers.
  const siblings = S.br.filter((branch, k) => k !== S.cur && branch.t.length > value.length && branch.t.startsWith(value)).length;
  return {
    model: S.run, prompt: records.at(-1), max_tokens: +$('#len').value, stream: true, ...filters(),
    seed: s + siblings + records.length - 1, ...copyLimit(), ...(r && { regex: r }),
  };
}
/* Pieces may arrive faster than a browser draws, and Escape must be heard. */
const FRAME = 40;
let frame = 0;
function append(added) {
  if (!added) return;
  S.br[S.cur].t = (text() + added).slice(0, limits.characters);
  if (text().length === limits.characters) running.abort();
  frame ||= setTimeout(flush, FRAME);
}
function flush() {
  frame = 0;
  if (!running) return;
  const isInView = back.lastElementChild.getBoundingClientRect().bottom < innerHeight;
  area.value = text();
  area.setSelectionRange(text().length, text().length);
  draw();
  if (isInView) back.lastElementChild.scrollIntoView({ block: 'nearest' });
  follow();
}
/* While a text is written, one reading after the other, without aborting any. */
let following = false;
async function follow() {
  if (following) return;
  following = true;
  const own = running;
  try {
    while (running === own && !known(text())) { await read(text(), own.signal); draw(); }
  } catch (error) {
    if (!isAbort(error) && error.status === undefined) throw error;
  } finally { following = false; }
}
function stop() { running?.abort(); }
function finish(from, ended, reason) {
  const isFull = text().length === limits.characters;
  const isStopped = running.signal.aborted && !isFull, written = points(text().slice(from), text().length - from);
  running = null;
  area.readOnly = false;
  const { separator, writes_records: records } = run();
  if (ended === 'stop' && records && separator && !reason && !isFull && !S.set.r) S.br[S.cur].t += separator;
  if (text().length > from) put(text()); else restoreLast();
  if (isFull) tellFull();
  if (reason?.param === 'regex') { regexProblem(reason.message); document.dispatchEvent(new Event('settings')); }
  else if (reason) problem(reason, go);
  const how = reason ? reason.message : isStopped ? 'Stopped after' : 'Wrote';
  say(reason ? how : `${how} ${plural(written, 'character')}${ended === 'stop' && records ? '; the record is complete' : ''}`);
}
function regexProblem(message) {
  $('#e-r').textContent = message;
  $('#e-r').hidden = !message;
  $('#s-r').setAttribute('aria-invalid', String(!!message));
}

/* Typing and pointing. */
area.addEventListener('beforeinput', event => {
  if (event.inputType === 'historyUndo') { event.preventDefault(); undo(); return; }
  if (event.inputType === 'historyRedo') { event.preventDefault(); redo(); return; }
  if (!typed || Date.now() - typed > TYPING_PAUSE) remember();
  typed = Date.now();
});
area.addEventListener('input', () => {
  const branch = S.br[S.cur];
  branch.t = area.value;
  if (branch.f > branch.t.length) branch.f = branch.t.length;
  changed();
});
document.addEventListener('selectionchange', () => {
  if (document.activeElement !== area || running || area.value !== text()) return;
  draw();
  if (panel?.at === area.selectionStart) return;
  outdate();
  asks();
});
/* A click moves the caret to the beginning of a token; another click there leaves it where it is. */
let snapped = null;
area.addEventListener('click', () => {
  const at = area.selectionStart;
  if (at !== area.selectionEnd || unit() !== 'token') return;
  const cell = known(text())?.cells.find(one => one.start < at && at < one.end);
  if (cell && snapped !== cell) area.setSelectionRange(cell.start, cell.start);
  snapped = cell;
});
area.addEventListener('pointermove', event => {
  if (event.pointerType === 'touch' || running) return;
  const node = document.elementsFromPoint(event.clientX, event.clientY).find(one => one.tagName === 'I' && back.contains(one));
  const cell = node && known(text())?.cells[$$('i', back).indexOf(node)];
  if (!cell || cell.isUnknown) { if ($('#status').dataset.hover) { delete $('#status').dataset.hover; status(); } return; }
  const p = 2 ** -cell.bits, rank = cell.count === 1 ? `, rank ${count(cell.first.rank)}` : '';
  $('#status').dataset.hover = '1';
  $('#status').textContent = `${quoted(cell.text)} ${cell.bits.toFixed(2)} bits, probability ${percent(p)}${rank}. Click to see alternatives.`;
});
area.addEventListener('pointerleave', () => { delete $('#status').dataset.hover; status(); });

$('#go').addEventListener('click', go);
$('#undo').addEventListener('click', undo);
$('#redo').addEventListener('click', redo);
arrows($('#alts'));
addEventListener('keydown', event => {
  if (event.key === 'Escape' && running) { event.stopImmediatePropagation(); stop(); return; }
  if (S.tab !== 'write') return;
  const mod = event.ctrlKey || event.metaKey, isField = document.activeElement?.tagName === 'INPUT' && document.activeElement.type !== 'radio';
  if (mod && event.key === 'Enter') { event.preventDefault(); go(); }
  else if (mod && event.key.toLowerCase() === 'z' && !isField) { event.preventDefault(); (event.shiftKey ? redo : undo)(); }
  else if (event.altKey && /^Digit\d$/.test(event.code)) {
    const button = $$('#alts button')[(+event.code[5] + 9) % 10];
    if (button) { event.preventDefault(); button.click(); }
  }
  // A person who types before clicking anywhere means the text. A space scrolls the page.
  else if (!mod && !event.altKey && event.key.length === 1 && event.key !== ' '
    && document.activeElement === document.body) area.focus();
});
scale($('#scale-u'), 'u', ['0', '0.5', '1', '2', '3', '4', '5', '7+']);

export function begin() {
  const value = text();
  area.maxLength = limits.characters;
  area.value = value;
  area.setSelectionRange(value.length, value.length);
}
/* Called when another view or another run is chosen. */
export function leave({ isOtherRun }) {
  for (const work of [refresh, asks, copies, missing]) work.cancel();
  if (isOtherRun) stop();
}
/* Called when the view is shown, and when another run is chosen. */
export function show() {
  $('#unit').textContent = unit() + 's';
  draw();
  branches();
  refresh();
}
export function settingsChanged() {
  regexProblem('');
  if (!running) asks();
}
