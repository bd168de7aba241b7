/* The page: runs, views, settings and the state in the address. */
import { $, $$, el, get, isShortcut, problem, solved } from './shared.js';
import { DEFAULTS, RANGES, S, TABS, limits, restore, run, runs, save, unit, whenTooLong } from './state.js';
import * as write from './write.js';
import * as score from './score.js';
import * as memory from './memory.js';
import * as records from './records.js';

const VIEWS = { write, score, memory, records };
const HAVE_SETTINGS = ['write', 'records'];

function tab(name, { focus = false, isOtherRun = false } = {}) {
  VIEWS[S.tab].leave({ isOtherRun });
  S.tab = name;
  for (const one of TABS) {
    const button = $('#t-' + one), isShown = one === name;
    button.setAttribute('aria-selected', String(isShown));
    button.tabIndex = isShown ? 0 : -1;
    $('#v-' + one).hidden = !isShown;
    if (isShown && focus) button.focus();
  }
  $('#set').classList.toggle('off', !HAVE_SETTINGS.includes(name));
  for (const node of $$('.drawer .writing')) node.hidden = name !== 'write';
  if (!HAVE_SETTINGS.includes(name) && !$('#drawer').hidden) drawer(false, { focus: false });
  document.title = `charlm: ${name} with ${run().name}`;
  const reason = available(name);
  if (!reason) VIEWS[name].show();
  save();
}
/* Why the run has no such view: shown in its place. */
function available(name) {
  const reason = run().unavailable[name], box = $('#v-' + name + ' .reason');
  if (!box) return reason;
  box.hidden = !reason;
  box.nextElementSibling.hidden = !!reason;
  box.replaceChildren();
  if (!reason) return reason;
  box.append(el('p', {}, `${name[0].toUpperCase() + name.slice(1)} is not available for the run ${run().name}: ${reason}.`));
  for (const other of runs.filter(one => !one.unavailable[name])) {
    const button = el('button', { type: 'button', class: 'btn' }, `Use ${other.name}`);
    button.addEventListener('click', () => { choose(other.name); $('#t-' + S.tab).focus(); });
    box.append(button, ' ');
  }
  return reason;
}
function choose(name) {
  S.run = name;
  $('#run').value = name;
  for (const node of $$('.one')) node.textContent = unit();
  for (const node of $$('.units')) node.textContent = unit() + 's';
  tab(S.tab, { isOtherRun: true });
}

for (const name of TABS) $('#t-' + name).addEventListener('click', () => tab(name));
$('[role=tablist]').addEventListener('keydown', event => {
  const k = TABS.indexOf(S.tab), target = { ArrowLeft: k + 3, ArrowRight: k + 1, Home: 0, End: 3 }[event.key];
  if (target === undefined || isShortcut(event)) return;
  event.preventDefault();
  tab(TABS[target % 4], { focus: true });
});
$('#run').addEventListener('change', event => choose(event.target.value));
$('#skip').addEventListener('click', event => { event.preventDefault(); $('#main').focus(); });

/* Settings. */
const FIELDS = { t: 2, p: 2, m: 2, s: null, c: null, r: null };
function showSettings() {
  for (const [name, digits] of Object.entries(FIELDS)) {
    const field = $('#s-' + name);
    if (field !== document.activeElement || field.type === 'range') field.value = S.set[name];
    if (digits) $('#o-' + name).textContent = S.set[name].toFixed(digits);
  }
}
for (const name of Object.keys(FIELDS)) {
  $('#s-' + name).addEventListener('input', event => {
    const { value } = event.target;
    if (name === 'r') S.set.r = value.slice(0, 1000);
    else {
      const [low, high] = RANGES[name], number = name === 's' || name === 'c' ? Math.floor(+value) : +value;
      S.set[name] = value !== '' && number >= low && number <= high ? number : DEFAULTS[name];
    }
    showSettings();
    save();
    write.settingsChanged();
  });
  $('#s-' + name).addEventListener('change', event => { event.target.value = S.set[name]; });
}
function drawer(isOpen, { focus = true } = {}) {
  $('#drawer').hidden = !isOpen;
  document.body.classList.toggle('open', isOpen);
  $('#set').setAttribute('aria-expanded', String(isOpen));
  if (focus) (isOpen ? $('#s-t') : $('#set')).focus();
}
$('#set').addEventListener('click', () => drawer($('#drawer').hidden));
$('#close').addEventListener('click', () => drawer(false));
document.addEventListener('settings', () => { drawer(true, { focus: false }); $('#s-r').focus(); });
addEventListener('keydown', event => { if (event.key === 'Escape' && !$('#drawer').hidden) drawer(false); });

async function start() {
  let found;
  try { found = await get('/page/runs'); } catch (error) { problem(error, start); return; }
  solved(start);
  runs.push(...found.runs);
  Object.assign(limits, found.limits);
  restore();
  if (!runs.some(one => one.name === S.run)) S.run = runs[0].name;
  $('#run').replaceChildren(...runs.map(one => new Option(`${one.name}: ${one.cell}`, one.name)));
  whenTooLong(isTooLong => { $('#unsaved').hidden = !isTooLong; });
  addEventListener('hashchange', () => location.reload());
  showSettings();
  for (const view of Object.values(VIEWS)) view.begin();
  choose(S.run);
}
start();
