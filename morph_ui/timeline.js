// The keyframes. Only this script writes the value, but for examples and loaded settings; Python reads it at Make.
const keys = element.querySelector('.keys'), add = element.querySelector('.add'), trouble = element.querySelector('.trouble');
const file = add.querySelector('input'), MOST = 12;
let items = [], waiting = [], sent = null, held = null;

function tell() {
  sent = JSON.stringify({ items: items.filter(k => k.path).map(({ path, url, words }) => ({ path, url, words })), waiting });
  props.value = sent;
  trigger('change');
}
function cell(key) {
  const div = document.createElement('div');
  div.className = 'key'; div.tabIndex = 0;
  div.innerHTML = '<img class="pic" alt="" draggable="false"><span class="num"></span><button type="button" class="off" aria-label="Remove this picture">×</button><input type="text" placeholder="in words">';
  const pic = div.querySelector('.pic'), words = div.querySelector('input');
  pic.src = key.url || '';
  words.value = key.words || '';
  words.setAttribute('aria-label', 'Words for this picture');
  words.addEventListener('input', () => { key.words = words.value; tell(); });
  div.querySelector('.off').addEventListener('click', () => { items = items.filter(k => k !== key); draw(); tell(); });
  pic.addEventListener('pointerdown', e => { if (e.button) return; e.preventDefault(); held = key; pic.setPointerCapture(e.pointerId); div.classList.add('held'); div.focus(); });
  pic.addEventListener('pointermove', e => { if (held === key) carry(e.clientX, e.clientY); });
  for (const end of ['pointerup', 'pointercancel']) pic.addEventListener(end, () => { if (held === key) { held = null; div.classList.remove('held'); tell(); } });
  div.addEventListener('keydown', e => {
    if (e.target !== div) return;
    const by = { ArrowLeft: -1, ArrowRight: 1 }[e.key];
    if (by) { e.preventDefault(); move(key, items.indexOf(key) + by); tell(); div.focus(); }
    if (e.key === 'Delete') { items = items.filter(k => k !== key); draw(); tell(); }
  });
  key.cell = div;
  return div;
}
function move(key, to) {
  const from = items.indexOf(key);
  if (to < 0 || to >= items.length || to === from) return;
  items.splice(from, 1); items.splice(to, 0, key);
  draw();
}
// The held picture takes the place of the one under the pointer. Moving a node would end its pointer capture, so the
// others are moved around it.
function carry(x, y) {
  const over = items.findIndex(k => { const r = k.cell.getBoundingClientRect(); return x >= r.left && x < r.right && y >= r.top && y < r.bottom; });
  if (over >= 0 && items[over] !== held) move(held, over);
}
function draw() {
  for (const key of items) if (!key.cell) cell(key);
  for (const node of [...keys.querySelectorAll('.key')]) if (!items.some(k => k.cell === node)) node.remove();
  const still = held ? held.cell : null, at = still ? items.indexOf(held) : items.length;
  items.forEach((k, i) => { if (k.cell !== still) keys.insertBefore(k.cell, i < at && still ? still : add); });
  items.forEach((k, i) => { k.cell.querySelector('.num').textContent = i + 1; k.cell.classList.toggle('coming', !k.path); k.cell.setAttribute('aria-label', `Picture ${i + 1}; arrow keys move it`); });
  add.style.display = items.length < MOST ? '' : 'none';
  add.querySelector('span').textContent = items.length ? 'add' : 'Drop, paste or choose pictures, two or more';
}
async function take(files) {
  const all = [...files], list = all.slice(0, MOST - items.length);
  trouble.textContent = list.length < all.length ? `At most ${MOST} pictures; ${all.length - list.length} were left out.` : '';
  await Promise.all(list.map(async f => {
    const key = { path: '', url: URL.createObjectURL(f), words: waiting.shift() || '' };
    items.push(key); draw();
    try { key.path = (await upload(f)).path; }
    catch (e) { items = items.filter(k => k !== key); trouble.textContent = `${f.name} could not be sent: ${e.message || e}`; }
    draw(); tell();
  }));
}
function read() {
  const v = props.value;
  if (!v || v === sent) return;
  let found; try { found = typeof v === 'string' ? JSON.parse(v) : v; } catch { return; }
  items = (found.items || []).map(k => ({ ...k })); waiting = found.waiting || []; sent = v;
  trouble.textContent = '';
  draw();
}
file.addEventListener('change', () => { take(file.files); file.value = ''; });
add.addEventListener('keydown', e => { if (e.key === 'Enter' || e.key === ' ') { e.preventDefault(); file.click(); } });
keys.addEventListener('dragover', e => { e.preventDefault(); keys.classList.add('over'); });
keys.addEventListener('dragleave', () => keys.classList.remove('over'));
keys.addEventListener('drop', e => { e.preventDefault(); keys.classList.remove('over'); take([...e.dataTransfer.files]); });
document.addEventListener('paste', e => {
  const files = [...(e.clipboardData || {}).files || []].filter(f => f.type.startsWith('image/'));
  if (files.length && element.offsetParent) { e.preventDefault(); take(files); }
});
watch('value', read);
read(); draw();
