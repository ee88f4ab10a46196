// One result large, with its settings; or two, side by side or one over the other.
const large = q('.large'), big = q('.big'), other = q('.other'), part = q('.part'), scrub = q('.scrub'), play = q('.play');
const TITLES = { interpolate: 'Interpolate', morph: 'Morph', draw: 'Draw', edit: 'Edit' }, urls = new Map();
let seen = null, second = null, at = 0, playing = 0, began = 0, over = false, turn = 0;
const url = blob => { if (!urls.has(blob)) urls.set(blob, URL.createObjectURL(blob)); return urls.get(blob); };
const titled = e => `${TITLES[e.method] || e.method} · seed ${e.settings.seed}`;
const moment = ms => new Date(ms).toLocaleString('en', { weekday: 'short', day: 'numeric', month: 'short', hour: '2-digit', minute: '2-digit', hour12: false });
const words = s => [s.prompt, s.prompt_b, ...(s.prompts || [])].filter(Boolean).join(' → ');
const films = e => !e.each.some(Boolean);
const settingsOf = (e, i) => e.each[i] || e.settings;
const picture = () => ({ blob: seen.pictures[at], name: seen.entry.names[at] });

function facts() {
  const { entry } = seen, own = settingsOf(entry, at), names = props.labels[entry.method] || {}, dl = q('dl');
  const rows = Object.entries(names).filter(([n, [label, first]]) => label && own[n] !== first).map(([n, [label]]) => [label, own[n]]);
  rows.push(['Size', own.width && `${own.width} × ${own.height}`], ['Made in', entry.seconds ? `${entry.seconds} s` : '']);
  dl.replaceChildren();
  for (const [label, v] of rows) {
    const text = Array.isArray(v) ? v.filter(x => typeof x !== 'object').join(' · ') : v === true ? 'yes' : typeof v === 'object' ? '' : v;
    if (text === undefined || text === null || text === '' || text === false) continue;
    dl.append(Object.assign(document.createElement('dt'), { textContent: label }), Object.assign(document.createElement('dd'), { textContent: String(text).slice(0, 300) }));
  }
}
function frame(i) {
  const n = seen.pictures.length;
  at = Math.max(0, Math.min(i, n - 1)); scrub.value = at;
  big.src = url(seen.pictures[at]); big.dataset.name = seen.entry.names[at];
  q('.where').textContent = n > 1 ? (seen.entry.labels[at] || `${at + 1} / ${n}`) : '';
  if (second) {  // of a film the same part of the way
    const k = n > 1 ? Math.round(at / (n - 1) * (second.pictures.length - 1)) : Math.min(second.at, second.pictures.length - 1);
    other.src = second.src || url(second.pictures[k]); other.dataset.name = second.entry?.names[k] || 'chrysalis-before';
  }
}
function pause() { cancelAnimationFrame(playing); playing = 0; play.textContent = '▶'; play.ariaLabel = 'Play'; }
function start() {
  pause();
  const film = seen.entry.film.length ? seen.entry.film : seen.pictures.map((_, i) => [i, 125]), ends = [];
  film.reduce((sum, [, ms], i) => ends[i] = sum + ms, 0);
  began = performance.now(); play.textContent = '❚❚'; play.ariaLabel = 'Pause';
  const tick = now => {
    const ms = Math.max(0, now - began) % ends.at(-1), [i] = film[ends.findIndex(end => ms < end)];
    if (i !== at) frame(i);
    playing = requestAnimationFrame(tick);
  };
  playing = requestAnimationFrame(tick);
}
function divide() {
  const two = !!second;
  large.classList.toggle('two', two); large.classList.toggle('over', two && over);
  q('.way').hidden = !two; q('.way').textContent = over ? 'side by side' : 'one over the other'; q('.way').setAttribute('aria-pressed', over);
  q('.pictures').style.setProperty('--part', `${part.value / 10}%`);
  const [a, b] = all('figcaption');
  a.textContent = two ? (second.src ? 'after' : titled(seen.entry)) : ''; b.textContent = two ? (second.src ? 'before' : titled(second.entry)) : '';
  q('.compare').textContent = two ? 'Compare no longer' : 'Compare';
}
async function opened(entry) { return { entry, pictures: await store.pictures(entry.id), at: 0 }; }
async function show(entry, against = null, i = 0) {
  pause();
  const was = document.activeElement, mine = ++turn, found = await opened(entry);
  if (lull?.id === entry.id) lull = null;
  if (mine !== turn) return;  // another one was asked for meanwhile
  seen = found; second = against; q('.said').textContent = '';
  if (!seen.pictures.length) return say('That one is no longer there.');
  const film = films(entry);
  scrub.max = seen.pictures.length - 1; play.hidden = !film || seen.pictures.length < 2; scrub.hidden = seen.pictures.length < 2;
  q('.title').textContent = titled(entry); q('.when').textContent = moment(entry.at);
  large.style.setProperty('--ratio', entry.ratio || 1);
  frame(i); facts(); divide();
  if (!large.open) { large.showModal(); large.addEventListener('close', () => was?.focus?.(), { once: true }); }
  if (film && seen.pictures.length > 1) start();
}
large.addEventListener('close', () => { pause(); shut(false); for (const u of urls.values()) URL.revokeObjectURL(u); urls.clear(); big.removeAttribute('src'); other.removeAttribute('src'); seen = second = null; });
large.addEventListener('click', e => { if (e.target === large) large.close(); });
large.addEventListener('keydown', e => {
  if (!seen || e.target.closest('input, [role=menu]')) return;
  if (e.key === ' ' && !e.target.closest('button') && !play.hidden) { e.preventDefault(); play.click(); }
  const by = { ArrowLeft: -1, ArrowRight: 1 }[e.key], list = listed(), next = by && list[list.findIndex(x => x.id === seen.entry.id) + by];
  if (next) { e.preventDefault(); show(next); }
});
play.addEventListener('click', () => playing ? pause() : start());
scrub.addEventListener('input', () => { pause(); frame(+scrub.value); if (seen.entry.each[at]) facts(); });
part.addEventListener('input', divide);
q('.way').addEventListener('click', () => { over = !over; divide(); });
q('.large .close').addEventListener('click', () => large.close());
q('.acts .send').addEventListener('click', e => { pause(); menu(e.currentTarget, picture()); });
q('.acts .save').addEventListener('click', () => { pause(); save(picture()); });
q('.acts .delete').addEventListener('click', () => { const { entry } = seen; large.close(); remove(entry); });
q('.acts .use').addEventListener('click', () => { const { entry } = seen, i = at; large.close(); use(entry, i).catch(e => say(`They could not be set: ${e.message || e}`)); });
q('.acts .compare').addEventListener('click', () => {
  if (second) { second = null; return divide(); }
  const mine = { ...seen, at };
  pause(); comparing = mine; large.close(); drawer(true);
  say('Choose the other one.', 'not now', () => { comparing = null; say(''); draw(); });
  const before = mine.entry.before;
  if (before) grid.prepend(cell({ ...mine.entry, id: '', before, thumb: null }, before));
});
// The same way as a file that is chosen at *Load settings*.
async function use(entry, i) {
  const settings = settingsOf(entry, i), name = `${entry.names[i].replace(/\.\w+$/, '')}.zip`, data = new DataTransfer();
  data.items.add(new File([await zip([['settings.json', JSON.stringify(settings)]])], name, { type: 'application/zip' }));
  open(entry.method);
  const input = await until(() => document.querySelector(`input[type=file]:has(+ #${entry.method}-load)`));
  input.files = data.files;
  input.dispatchEvent(new Event('change', { bubbles: true }));
  if (innerWidth < 760) drawer(false);
}
