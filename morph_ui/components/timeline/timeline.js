// The keyframes. This script owns the value; Python reads it at Make, and sends examples ("items"), what a file says (its
// "words", points, seeds and timing), and arrows.
function tell() {
  const there = items.filter(k => k.path).map(({ id, path, url, words, example }) => ({ id, path, url, words, example }));
  sent = JSON.stringify({ items: there, coming: items.length - there.length, ...values() });
  props.value = sent; trigger('change');
  try { sessionStorage.setItem(STORED, JSON.stringify({ items: there, kept })); } catch { /* too much for this browser */ }
}
function say(text, back = null) { trouble.textContent = text; before = back; undo.hidden = !back; }
function born(key) { return { id: `${Date.now().toString(36)}-${born.n = (born.n || 0) + 1}`, ...key }; }
function cell(key) {
  const div = document.createElement('div');
  div.className = 'key'; div.setAttribute('role', 'group');
  div.innerHTML = '<button type="button" class="grip"><img class="pic" alt="" draggable="false"></button><span class="num"></span>'
    + '<span class="tools"><button type="button" class="left">‹</button><button type="button" class="right">›</button><button type="button" class="off">×</button></span>'
    + '<input type="text" placeholder="in words">';
  const pic = div.querySelector('.pic'), grip = div.querySelector('.grip'), words = div.querySelector('input');
  pic.src = key.url || '';
  words.value = key.words || '';
  words.addEventListener('input', () => { key.words = words.value; tell(); });
  for (const [name, act] of [['off', () => remove(key)], ['left', () => step(key, -1)], ['right', () => step(key, 1)]])
    div.querySelector(`.${name}`).addEventListener('click', act);
  grip.addEventListener('keydown', e => {
    const by = { ArrowLeft: -1, ArrowRight: 1 }[e.key];
    if (by) { e.preventDefault(); step(key, by); grip.focus(); }
    if (e.key === 'Delete' || e.key === 'Backspace') { e.preventDefault(); remove(key); }
  });
  // A mouse or a pen drags at once. A finger scrolls the page, unless it has rested for a moment.
  let rest = null, counts = 0;
  const hold = id => { held = key; counts = counted(); grip.setPointerCapture(id); div.classList.add('held'); };
  const drop = () => { clearTimeout(rest); if (held === key) { held = null; div.classList.remove('held'); tell(); miss(counts, false); } };
  grip.addEventListener('pointerdown', e => {
    if (e.button || held) return;
    if (e.pointerType === 'touch') rest = setTimeout(() => hold(e.pointerId), 250); else { e.preventDefault(); grip.focus(); hold(e.pointerId); }
  });
  grip.addEventListener('touchmove', e => held === key && e.preventDefault(), { passive: false });
  grip.addEventListener('contextmenu', e => held === key && e.preventDefault());
  grip.addEventListener('pointermove', e => { if (held === key) carry(e.clientX, e.clientY); });
  for (const end of ['pointerup', 'pointercancel', 'lostpointercapture']) grip.addEventListener(end, drop);
  key.cell = div;
}
function remove(key) {
  const old = [...items], at = items.indexOf(key), counts = counted();
  items = items.filter(k => k !== key);
  draw(); tell(); miss(counts, true, () => { items = old; draw(); tell(); });
  const next = items[Math.min(at, items.length - 1)];
  (next ? next.cell.querySelector('.grip') : add).focus();
}
function step(key, by) {
  const counts = counted();
  move(key, items.indexOf(key) + by); tell(); miss(counts, false); speak(place(key));
}
const place = key => `Picture ${items.indexOf(key) + 1 + lead.length} of ${stops().length}`;
function move(key, to) {
  if (to < 0 || to >= items.length) return;
  items.splice(items.indexOf(key), 1); items.splice(to, 0, key); draw();
}
function carry(x, y) {
  const over = items.findIndex(k => { const r = k.cell.getBoundingClientRect(); return x >= r.left && x < r.right && y >= r.top && y < r.bottom; });
  if (over >= 0 && items[over] !== held) move(held, over);
}
// Only what is out of place is moved: a node that is put in again loses its focus, and the held one its pointer.
function draw() {
  for (const key of items) if (!key.cell) cell(key);
  for (const node of [...keys.querySelectorAll('.key')]) if (!items.some(k => k.cell === node)) node.remove();
  const still = held ? held.cell : document.activeElement && document.activeElement.closest('.key');
  const wanted = items.map(k => k.cell), at = wanted.indexOf(still);
  if (at < 0) wanted.forEach((c, i) => { if (keys.children[i] !== c) keys.insertBefore(c, keys.children[i]); });
  else {
    for (let i = at - 1; i >= 0; i--) if (wanted[i + 1].previousElementSibling !== wanted[i]) keys.insertBefore(wanted[i], wanted[i + 1]);
    for (let i = at + 1; i < wanted.length; i++) if (wanted[i - 1].nextElementSibling !== wanted[i]) wanted[i - 1].after(wanted[i]);
  }
  items.forEach((k, i) => {
    const part = s => k.cell.querySelector(s);
    k.cell.classList.toggle('coming', !k.path);
    const one = nameOf(i + lead.length), said = { off: `Remove ${one}`, left: `Move ${one} to the left`, right: `Move ${one} to the right` };
    for (const [name, text] of Object.entries(said)) part(`.${name}`).ariaLabel = text;
    k.cell.ariaLabel = place(k); part('.grip').ariaLabel = `${place(k)}; arrow keys move it`; part('input').ariaLabel = `Words for ${one}`;
  });
  add.style.display = items.length < MOST ? '' : 'none';
  add.querySelector('span').textContent = items.length ? 'add' : OWN.invitation;
  keys.classList.toggle('slim', more && !items.length);
  arrive(); chips();
}
async function take(files) {
  const all = [...files], list = all.slice(0, MOST - items.length);
  say(list.length < all.length ? `At most ${MOST} pictures; ${all.length - list.length} were left out.` : '');
  const said = [], sending = list.map(f => {
    const key = born({ path: '', url: '', words: waiting.shift() || '' });
    items.push(key);
    return [f, key];
  });
  draw(); tell();
  await Promise.all(sending.map(async ([f, key]) => {
    try {
      const { path, url, note } = await bring(f);
      Object.assign(key, { path, url });
      key.cell.querySelector('.pic').src = url;
      if (note) said.push(note);
    } catch (e) {
      items = items.filter(k => k !== key);
      if (key.words) waiting.unshift(key.words);
      said.push(e.message);
    }
    if (said.length) say(said.join(' '));
    draw(); tell();
  }));
}
function read() {
  const v = props.value;
  if (!v || v === sent) return;
  const found = JSON.parse(v);
  if (found.arrows !== undefined) { props.value = sent; return editor.show(found.arrows, found.said); }
  if (found.seeds && !found.words) reseed(found.seeds);
  else if (found.words) {
    loaded = { points: found.points || [], seeds: found.seeds || {}, holds: found.holds || [], times: found.times || [], there: [], held: [] };
    items.forEach((k, i) => { k.words = found.words[i] || ''; k.cell.querySelector('input').value = k.words; });
    waiting = found.words.slice(items.length);
    say('');
  } else {
    const old = items.filter(k => !k.example), counts = counted();
    items = (found.items || []).map(k => born({ ...k, example: true }));
    waiting = []; loaded = null;
    const back = old.length ? () => { items = old; draw(); tell(); } : null;
    say('', back); miss(counts, true, back);
  }
  draw(); tell();
}
undo.addEventListener('click', () => { const back = before; say(''); back(); });
file.addEventListener('change', () => { take(file.files); file.value = ''; });
add.addEventListener('keydown', e => { if (e.key === 'Enter' || e.key === ' ') { e.preventDefault(); file.click(); } });
keys.addEventListener('dragover', e => { e.preventDefault(); keys.classList.add('over'); });
keys.addEventListener('dragleave', () => keys.classList.remove('over'));
keys.addEventListener('drop', async e => {
  e.preventDefault(); keys.classList.remove('over');
  const files = await dropped(e.dataTransfer).catch(() => []);
  if (files.length) take(files); else say(NO_FILE);
});
file.accept = PICTURES;
if (!more) document.addEventListener('paste', e => {
  const files = pasted(e);
  const typing = e.target.closest && e.target.closest('input, textarea, [contenteditable]');
  if (!files.length || !element.offsetParent || (typing && [...e.clipboardData.types].includes('text/plain'))) return;
  e.preventDefault(); take(files);
});
watch('value', read); read(); draw();
// After the page was loaded again: all are there, until the server says which are not. It may have been started anew, or a
// day may have passed; where it does not answer, nothing is known.
async function back({ items: old, kept: known }) {
  items = old.map(born); if (known) kept = { ...kept, ...known };
  draw(); tell();
  const there = items, gone = [];
  await Promise.all(there.filter(k => !k.example).map(async k => {
    const got = await still(k.path);
    if (got.error) gone.push(k);
    else if (got.path && got.path !== k.path) { Object.assign(k, { path: got.path, url: got.url }); k.cell.querySelector('.pic').src = k.url; }
  }));
  if (gone.length) {
    items = items.filter(k => !gone.includes(k)); waiting = there.filter(k => gone.includes(k)).map(k => k.words);
    say(`${gone.length} of ${there.length} pictures ${gone.length > 1 ? 'are' : 'is'} no longer kept here; drop ${gone.length > 1 ? 'them' : 'it'} again.`);
  }
  draw(); tell();
}
if (!props.value) try { const old = JSON.parse(sessionStorage.getItem(STORED)); if (old?.items?.length || old?.kept) back(old); } catch { /* no storage here */ }
