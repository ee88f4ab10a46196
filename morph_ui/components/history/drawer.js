// The drawer: all that is kept, newest first; words narrow it down.
const grid = q('.grid'), box = q('.drawer'), button = q('.open'), line = q('.drawer .word'), [text, act] = line.children, find = q('.find');
let entries = [], comparing = null, thumbs = new Map(), acting = null;
function say(what, label = '', todo = null) {
  text.textContent = what; act.textContent = label; act.hidden = !todo; line.hidden = !what; acting = todo;
}
act.addEventListener('click', () => acting?.());
// Words of the prompts, the method, the network, the time; a number is a seed.
const about = e => [titled(e), moment(e.at), e.settings.model, ...[e.settings, ...e.each].flatMap(s => s ? [words(s), s.negative] : [])].join(' ').toLowerCase();
const seeds = e => [e.settings, ...e.each].map(s => String(s?.seed));
const listed = () => {
  const asked = find.value.toLowerCase().split(/\s+/).filter(Boolean);
  return entries.filter(e => { const all = about(e); return asked.every(w => /^\d+$/.test(w) ? seeds(e).includes(w) || ` ${words(e.settings)} `.includes(` ${w} `) : all.includes(w)); });
};
function cell(e, src = '') {
  const li = document.createElement('li'), b = Object.assign(document.createElement('button'), { type: 'button', className: 'thumb' }), img = document.createElement('img');
  if (!src && !thumbs.has(e.id)) thumbs.set(e.id, URL.createObjectURL(e.thumb));
  img.src = src || thumbs.get(e.id); img.alt = ''; img.draggable = true; img.loading = 'lazy'; img.dataset.entry = e.id;
  const name = src ? 'What it was made from' : titled(e), said = words(e.settings);
  b.append(img); b.title = said || name; b.setAttribute('aria-label', `${name}, ${moment(e.at)}${said ? `: ${said}` : ''}`);
  if (films(e) && !src) b.append(Object.assign(document.createElement('i'), { textContent: '▶' }));
  b.addEventListener('click', () => choose(e, src));
  b.addEventListener('keydown', k => { if (k.key === 'Delete' && !src) remove(e); });
  const day = new Date(e.at), today = day.toDateString() === new Date().toDateString();
  const when = today ? day.toLocaleTimeString('en', { hour: '2-digit', minute: '2-digit', hour12: false }) : day.toLocaleDateString('en', { day: 'numeric', month: 'short' });
  li.append(b, Object.assign(document.createElement('span'), { textContent: src ? name : TITLES[e.method] || e.method }));
  if (!src) li.append(Object.assign(document.createElement('time'), { textContent: `seed ${e.settings.seed} · ${when}` }));
  return li;
}
async function choose(e, src) {
  if (!comparing) return show(e);
  const mine = comparing;
  comparing = null; say(''); draw();
  const against = src ? { src, pictures: [1], at: 0 } : await opened(e);
  return show(mine.entry, against, mine.at);
}
function draw() {
  const found = listed(), bytes = entries.reduce((n, e) => n + e.bytes, 0);
  grid.replaceChildren(...found.map(e => cell(e)));
  for (const [id, href] of thumbs) if (!entries.some(e => e.id === id)) { URL.revokeObjectURL(href); thumbs.delete(id); }
  q('.drawer .empty').hidden = !!found.length; if (entries.length) q('.drawer .empty').textContent = 'Nothing here has these words.'; else q('.drawer .empty').textContent = broken || 'What you make is kept here, in this browser only.';
  button.querySelector('output').textContent = entries.length || '';
  q('.sum').textContent = entries.length ? `${(bytes / 1e6).toFixed(bytes < 1e7 ? 1 : 0)} of ${Math.round(ROOM / 1e6) || (ROOM / 1e6).toFixed(2)} MB` : '';
  q('.export').disabled = q('.clear').disabled = !entries.length; find.disabled = !entries.length;
}
let broken = '';
async function read() {
  try { entries = await store.list(); } catch { entries = []; broken = NONE; }
  draw();
}
const changed = () => { told?.postMessage(''); return read(); };
if (told) told.onmessage = read;
function drawer(on) {
  box.hidden = !on; button.setAttribute('aria-expanded', on); document.documentElement.classList.toggle('chrysalis-history', on);
  if (on) { read(); find.focus({ preventScroll: true }); } else { comparing = null; say(''); button.focus({ preventScroll: true }); }
}
async function remove(entry) {
  const pictures = await store.pictures(entry.id);
  await store.drop([entry.id]); await changed();
  drawer(true);
  say(`${titled(entry)} is deleted.`, 'Undo', async () => { say(''); await store.put(entry, pictures); changed(); });
}
async function exported() {
  const files = [], taken = new Set();
  say('Packing …');
  for (const e of entries) {
    const pictures = await store.pictures(e.id), d = new Date(e.at - new Date().getTimezoneOffset() * 60000).toISOString().replace(/[-:]/g, '').slice(0, 15).replace('T', '-');
    let folder = `chrysalis-${e.method}-seed${e.settings.seed}-${d}`;
    for (let n = 2; taken.has(folder); n++) folder = `${folder.replace(/ \d+$/, '')} ${n}`;
    taken.add(folder);
    pictures.forEach((blob, i) => files.push([`${folder}/${ended(e.names[i], blob.type)}`, blob]));
    files.push([`${folder}/settings.json`, JSON.stringify(e.each.some(Boolean) ? { ...e.settings, pictures: e.each } : e.settings, null, 1)]);
  }
  download(await zip(files), 'chrysalis-history.zip');
  say('');
}
button.addEventListener('click', () => drawer(box.hidden));
q('.drawer .close').addEventListener('click', () => drawer(false));
box.addEventListener('keydown', e => {
  if (e.key === 'Escape') { e.preventDefault(); if (comparing) { comparing = null; say(''); draw(); } else drawer(false); }
  const cells = [...grid.querySelectorAll('.thumb')], i = cells.indexOf(document.activeElement), row = Math.max(1, Math.round(grid.clientWidth / (cells[0]?.parentNode.offsetWidth || 1)));
  const to = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -row, ArrowDown: row }[e.key];
  if (to && i >= 0 && cells[i + to]) { e.preventDefault(); cells[i + to].focus(); }
});
find.addEventListener('input', draw);
q('.export').addEventListener('click', () => exported().catch(e => say(`It could not be packed: ${e.message || e}`)));
q('.clear').addEventListener('click', () => say(`All ${entries.length} are thrown away, for good?`, 'Throw away', async () => { say(''); await store.clear(); changed(); }));

// What is made comes in, one after the other.
let coming = Promise.resolve();
function drain() {
  for (const made of (window.chrysalisMade ||= []).splice(0)) coming = coming.then(() => take(made)).then(is => is && changed()).catch(e => {
    if (refused || broken) return;
    refused = true;  // which is said once
    say('This browser gives the history no more room: the newest results are not kept. Save what you want to keep.');
  });
}
window.addEventListener('chrysalis-made', drain); drain();
// A small picture that is dragged brings its large one.
grid.addEventListener('pointerdown', async e => {
  const img = e.target.closest('.thumb')?.querySelector('img'), entry = entries.find(x => x.id === img?.dataset.entry);
  if (!entry || img.dataset.full) return;
  const pictures = await store.pictures(entry.id), i = films(entry) ? pictures.length >> 1 : 0;
  img.dataset.full = URL.createObjectURL(pictures[i]); img.dataset.name = entry.names[i];
});
grid.addEventListener('dragstart', e => { if (e.target.dataset?.entry && !e.target.dataset.full) e.preventDefault(); });  // not the small one
// In the page's own line at the top, beside the keys.
const place = document.querySelector('#history');
if (place) place.style.cssText = 'position:absolute;top:4px;right:50px;width:auto;min-width:0;padding:0;z-index:40;overflow:visible';
read();
