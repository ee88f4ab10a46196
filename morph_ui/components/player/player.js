// One closure a page: what Python last sent, and where the scrubber stands. Python never hears of playing.
const q = s => element.querySelector(s);
const big = q('.big'), scrub = q('.scrub'), strip = q('.strip'), play = q('.play'), where = q('.where');
let cells = [], at = 0, run = -1, timer = null, step = 1, touched = false, over = false, looped = false;

function show(i) {
  at = Math.max(0, Math.min(i, cells.length - 1));
  const cell = cells[at];
  if (cell && cell.src) { big.src = cell.src; big.classList.toggle('forming', cell.state === 'forming'); }
  element.querySelector('.stage').classList.toggle('has', !!(cell && cell.src) || !!big.src);
  scrub.value = at;
  where.textContent = cells.length ? `${at + 1} / ${cells.length}` : '';
  [...strip.children].forEach((c, k) => c.setAttribute('aria-selected', k === at));
}
function tick() {
  const n = cells.length, mode = q('.mode').value;
  let next = at + step;
  if (mode === 'back' && (next < 0 || next >= n)) { step = -step; next = at + step; }
  if (mode !== 'back') step = 1;
  if (mode === 'loop' && next >= n) next = 0;
  if (mode === 'once' && next >= n) return pause();
  if (cells[next] && cells[next].state === 'done') show(next); else if (n) { step = -step; }
}
function pause() { clearInterval(timer); timer = null; play.textContent = '▶'; play.setAttribute('aria-label', 'Play'); }
function start() {
  pause();
  if (cells.length < 2) return;
  if (q('.mode').value === 'once' && at === cells.length - 1) show(0);
  timer = setInterval(tick, 1000 / +q('.fps').value);
  play.textContent = '❚❚'; play.setAttribute('aria-label', 'Pause');
}
function choose(i) { touched = true; pause(); show(i); trigger('choose', { index: i }); }

function draw() {
  let v = props.value;
  if (typeof v === 'string') { try { v = JSON.parse(v); } catch { v = null; } }
  if (!v) return;
  const before = cells;
  if (v.run !== run) { run = v.run; touched = over = false; pause(); if (v.loop !== undefined && v.loop !== looped) { looped = v.loop; q('.mode').value = looped ? 'loop' : 'back'; } }
  const ends = v.done && !over;
  over = v.done;
  cells = v.cells;
  element.style.setProperty('--ratio', v.ratio);
  scrub.max = cells.length - 1;
  while (strip.children.length > cells.length) strip.lastChild.remove();
  while (strip.children.length < cells.length) {
    const b = document.createElement('button'), i = strip.children.length;
    b.type = 'button'; b.className = 'cell'; b.setAttribute('role', 'option'); b.setAttribute('aria-label', `Frame ${i + 1}`);
    b.append(document.createElement('img'));
    b.addEventListener('click', () => choose(i));
    strip.append(b);
  }
  cells.forEach((c, i) => {
    const b = strip.children[i], img = b.firstChild;
    b.dataset.state = c.state;
    if (c.src && img.getAttribute('src') !== c.src) img.src = c.src;
    img.style.visibility = c.src ? 'visible' : 'hidden';
  });
  if (timer) return;
  const changed = cells.map((c, i) => [c, i]).filter(([c, i]) => c.src && c.src !== (before[i] || {}).src && i && i < cells.length - 1);
  if (!touched && changed.length) show(changed[changed.length >> 1][1]); else show(at);
  if (ends && !touched) { show(0); step = 1; start(); }
}
play.addEventListener('click', () => { touched = true; timer ? pause() : start(); });
scrub.addEventListener('input', () => { touched = true; pause(); show(+scrub.value); });
scrub.addEventListener('change', () => choose(+scrub.value));
q('.fps').addEventListener('change', () => timer && start());
watch('value', draw);
draw();
