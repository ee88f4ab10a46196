// Body skeletons over two pictures. Python sets the value; the person's changes go back, without the pictures, as `input`.
const SIDES = ['From', 'To'], { joints: NAMES, limbs, colours } = OWN.facts, STEP = 0.01, SMALL = 0.002, MOST = 64;
// Somebody who stands: one half, in heights of the figure, from its middle and its top. The other half is its mirror image.
const HALF = { 0: [0, .09], 1: [0, .19], 2: [-.11, .19], 3: [-.14, .34], 4: [-.15, .48], 8: [-.065, .49], 9: [-.07, .73], 10: [-.075, .97], 14: [-.025, .07], 16: [-.05, .08] };
const OTHER = { 5: 2, 6: 3, 7: 4, 11: 8, 12: 9, 13: 10, 15: 14, 17: 16 };
const STANDING = NAMES.map((_, k) => HALF[k] || [-HALF[OTHER[k]][0], HALF[OTHER[k]][1]]);
const q = s => element.querySelector(s), rgb = k => `rgb(${colours[k].join(' ')})`;
// What is not seen for a while may be made anew by Gradio; by then the value has lost its pictures.
const kept = (window.chrysalisPictures ??= {})[OWN.tab] ??= ['', ''];
let sides = SIDES.map(() => ({ src: '', width: 0, height: 0, people: [] })), sent = null, past = [];
let held = null, stepped = false, chosen = null;

const parts = SIDES.map((name, s) => {
  const section = document.createElement('section');
  section.className = 'side'; section.setAttribute('aria-label', `Skeletons, ${name}`);
  section.innerHTML = `<div class="head"><b>${name}</b><span class="people"></span><button type="button" class="add">add a person</button></div>`
    + '<div class="frame"><img alt="" draggable="false"><svg></svg><output class="name"></output></div><div class="missing"></div>';
  q('.sides').append(section);
  const part = Object.fromEntries(['people', 'add', 'frame', 'name', 'missing'].map(c => [c, section.querySelector(`.${c}`)]));
  Object.assign(part, { section, img: section.querySelector('img'), svg: section.querySelector('svg'), nodes: [] });
  part.add.dataset.key = `add.${s}`; part.add.setAttribute('aria-label', `Add a person, ${name}`);
  part.add.addEventListener('click', () => {
    if (sides[s].people.length < MOST) change(() => sides[s].people.push(standing(sides[s])));
  });
  part.svg.addEventListener('pointerdown', e => take(e, s));
  part.svg.addEventListener('pointermove', e => follow(e, s));
  for (const end of ['pointerup', 'pointercancel', 'lostpointercapture']) part.svg.addEventListener(end, e => let_go(e));
  part.svg.addEventListener('pointerleave', () => { if (!held) caption(); });
  part.svg.addEventListener('touchstart', e => e.target.closest('.joint') && e.preventDefault(), { passive: false });  // else the page scrolls
  return part;
});
const clamp = v => Math.round(Math.min(1, Math.max(0, v)) * 1e5) / 1e5;
const label = (s, p, k) => `${NAMES[k]}, person ${p + 1}, ${SIDES[s]}`;
const split = key => key.split('.').map(Number);
const joint = ([s, p, k]) => sides[s]?.people[p]?.[k];
const pair = s => sides[1 - s].people;

function tell() {
  sent = JSON.stringify({ sides: sides.map(({ src, ...side }) => src ? side : { src, ...side }) });
  props.value = sent; foot(); trigger('input');
}
function remember() { past = [...past, JSON.stringify(sides.map(x => x.people))].slice(-200); }
function change(act, key) { remember(); act(); draw(key); tell(); }
function undo() {
  if (!past.length) return;
  JSON.parse(past.pop()).forEach((people, s) => { sides[s].people = people; });
  held = null; stepped = false; draw(); tell();
}
// The figure fills most of the picture's height, or of its width.
function standing({ width: w, height: h }) {
  const tall = Math.min(.84 * h, 2.6 * w);
  return STANDING.map(([x, y]) => [clamp(.5 + x * tall / w), clamp(.5 + (y - .53) * tall / h)]);
}
function extent({ width: w, height: h }, person) {
  const seen = person.filter(Boolean), span = i => Math.max(...seen.map(j => j[i])) - Math.min(...seen.map(j => j[i]));
  return seen.length < 2 ? 0 : Math.max(span(0) * w, span(1) * h);
}
// Between its neighbours; beside the one it has, as in somebody who stands, so that it lies not on top of it.
function home(side, person, k) {
  const near = limbs.filter(l => l.includes(k)).map(([a, b]) => a === k ? b : a).filter(n => person[n]);
  if (!near.length) return [.5, .5];
  const mean = i => near.reduce((t, n) => t + person[n][i], 0) / near.length;
  if (near.length > 1) return [clamp(mean(0)), clamp(mean(1))];
  const n = near[0], tall = extent(side, person) || .5 * side.height;
  return [0, 1].map(i => clamp(person[n][i] + (STANDING[k][i] - STANDING[n][i]) * tall / (i ? side.height : side.width)));
}
function svg(parent, name, attributes) {
  const node = parent.appendChild(document.createElementNS('http://www.w3.org/2000/svg', name));
  for (const [k, v] of Object.entries(attributes)) node.setAttribute(k, v);
  return node;
}
function button(parent, text, title, key, act) {
  const b = parent.appendChild(Object.assign(document.createElement('button'), { type: 'button', textContent: text, ariaLabel: title, onclick: act }));
  b.dataset.key = key;
}
function place(s, p, k) {
  const { width: w, height: h } = sides[s], [x, y] = joint([s, p, k]), { dots, lines, number } = parts[s].nodes[p];
  dots[k].setAttribute('transform', `translate(${x * w} ${y * h})`);
  limbs.forEach((limb, i) => limb.forEach((j, end) => {
    if (j !== k || !lines[i]) return;
    lines[i].setAttribute(`x${end + 1}`, x * w); lines[i].setAttribute(`y${end + 1}`, y * h);
  }));
  if (!number) return;
  const top = sides[s].people[p].filter(Boolean).sort((a, b) => a[1] - b[1])[0];
  number.setAttribute('x', top[0] * w); number.setAttribute('y', Math.max(top[1] * h - 10 * number.unit, 14 * number.unit));
}
function person(s, p) {
  const side = sides[s], they = side.people[p], longest = Math.max(side.width, side.height), root = parts[s].svg;
  const unit = longest / 512 * Math.min(1, Math.max(.5, extent(side, they) / (.4 * longest) || 1));
  const lines = limbs.map(([a, b], i) => they[a] && they[b] && svg(root, 'line', { stroke: rgb(i), 'stroke-width': 7 * unit }));
  const number = side.people.length > 1 && they.some(Boolean) && svg(root, 'text', { class: 'which', 'font-size': 18 * unit, 'stroke-width': 4 * unit });
  if (number) { number.textContent = p + 1; number.unit = unit; }
  const dots = they.map((at, k) => {
    if (!at) return null;
    const hollow = !pair(s)[p]?.[k];
    const g = svg(root, 'g', { class: hollow ? 'joint hollow' : 'joint', tabindex: 0, role: 'button', 'data-key': `${s}.${p}.${k}`,
      'aria-label': label(s, p, k) + (hollow ? `, missing in ${SIDES[1 - s]}` : ''), style: `--own: ${rgb(k)}` });
    svg(g, 'circle', { class: 'dot', r: 5.5 * unit, fill: rgb(k) });
    for (const [name, r] of [['ring', 9], ['hit', 5.5]]) svg(g, 'circle', { class: name, r: r * unit });
    return g;
  });
  parts[s].nodes[p] = { dots, lines, number };
  they.forEach((at, k) => at && place(s, p, k));
}
function lists(s) {
  const { people, missing } = parts[s];
  people.replaceChildren(); missing.replaceChildren();
  sides[s].people.forEach((they, p) => {
    const chip = document.createElement('span');
    chip.className = 'chip'; chip.append(`person ${p + 1}`);
    button(chip, '×', `Remove person ${p + 1}, ${SIDES[s]}`, `off.${s}.${p}`, () => change(() => sides[s].people.splice(p, 1)));
    people.append(chip);
    const gone = NAMES.map((_, k) => k).filter(k => !they[k]);
    if (gone.length) missing.append(sides[s].people.length > 1 ? `person ${p + 1}, missing:` : 'missing:');
    for (const k of gone)
      button(missing, NAMES[k], `Bring back ${label(s, p, k)}`, `gone.${s}.${p}.${k}`, () =>
        change(() => { they[k] = home(sides[s], they, k); }, `${s}.${p}.${k}`));
  });
  parts[s].add.setAttribute('aria-disabled', sides[s].people.length >= MOST);
}
function draw(key) {
  const focused = element.contains(document.activeElement) ? document.activeElement : null;
  key ??= focused?.dataset.key;
  const none = !sides.some(x => x.src);
  q('.empty').hidden = !none; q('.sides').hidden = q('.foot').hidden = none;
  parts.forEach((part, s) => {
    const { src, width, height, people } = sides[s];
    part.section.hidden = !src && !people.length;
    if (src) { if (part.img.getAttribute('src') !== src) part.img.src = src; } else part.img.removeAttribute('src');
    part.img.hidden = !src;
    part.img.alt = `the picture ${SIDES[s]}`;
    part.frame.style.setProperty('--ratio', width / height || 1);
    part.svg.setAttribute('viewBox', `0 0 ${width || 1} ${height || 1}`);
    part.svg.replaceChildren(); part.nodes = [];
    people.forEach((_, p) => person(s, p));
    lists(s);
  });
  caption(); foot();
  if (!focused) return;
  const side = key?.match(/\d/)?.[0] ?? 0;
  ((key && q(`[data-key="${key}"]`)) || parts[side].add).focus({ preventScroll: true });  // or the keys are lost to the page
}
function foot() {
  if (chosen && !joint(chosen)) chosen = null;
  q('.undo').setAttribute('aria-disabled', !past.length);
  q('.off').setAttribute('aria-disabled', !chosen);
  q('.off').textContent = chosen ? `remove ${NAMES[chosen[2]]}` : 'remove joint';
  const hollow = element.querySelector('.hollow') ? ' A hollow joint is missing in the other picture and does not move between them.' : '';
  q('.hint').textContent = `Drag a joint, or move it by arrow keys, in small steps with Shift.${hollow}`;
}
function caption(at) {
  parts.forEach((part, s) => {
    const xy = at && at[0] === s && joint(at);
    part.name.classList.toggle('seen', !!xy);
    if (!xy) return;
    part.name.textContent = NAMES[at[2]] + (sides[s].people.length > 1 ? `, ${at[1] + 1}` : '');
    part.name.style.left = `clamp(48px, ${xy[0] * 100}%, calc(100% - 48px))`;
    part.name.style.top = `calc(${xy[1] * 100}% + ${xy[1] > .85 ? -40 : 16}px)`;
  });
}
// Targets overlap on a face: the nearest joint is meant, not the one drawn last.
function nearest(s, x, y) {
  const box = parts[s].svg.getBoundingClientRect();
  let best = null, least = Infinity;
  sides[s].people.forEach((they, p) => they.forEach((at, k) => {
    const far = at ? Math.hypot(box.left + at[0] * box.width - x, box.top + at[1] * box.height - y) : Infinity;
    if (far < least) { least = far; best = [s, p, k]; }
  }));
  return best;
}
function take(e, s) {
  if (e.button || (held && !(e.pointerType === 'pen' && held.touch)) || !e.target.closest('.joint')) return;
  e.preventDefault();
  const at = nearest(s, e.clientX, e.clientY), [x, y] = joint(at), box = parts[s].svg.getBoundingClientRect();
  if (held) parts[held.at[0]].frame.classList.remove('held');  // the palm that came before the pen
  held = { at, id: e.pointerId, touch: e.pointerType === 'touch', dx: x - (e.clientX - box.left) / box.width, dy: y - (e.clientY - box.top) / box.height, moved: false };
  parts[s].svg.setPointerCapture(e.pointerId);
  parts[s].nodes[at[1]].dots[at[2]].focus({ preventScroll: true });
  parts[s].frame.classList.add('held');
}
function follow(e, s) {
  if (!held) return caption(e.target.closest('.joint') ? nearest(s, e.clientX, e.clientY) : undefined);
  if (e.pointerId !== held.id) return;
  const box = parts[s].svg.getBoundingClientRect();
  move(held.at, clamp((e.clientX - box.left) / box.width + held.dx), clamp((e.clientY - box.top) / box.height + held.dy), !held.moved);
  held.moved = true;
}
function let_go(e) {
  if (!held || e.pointerId !== held.id) return;
  parts[held.at[0]].frame.classList.remove('held');
  if (held.moved) { held = null; tell(); } else held = null;
}
function move([s, p, k], x, y, first) {
  if (first) remember();
  sides[s].people[p][k] = [x, y];
  place(s, p, k); caption([s, p, k]);
}
function remove(at) { const [s, p, k] = at; change(() => { sides[s].people[p][k] = null; }, `gone.${s}.${p}.${k}`); }
const spot = at => `${NAMES[at[2]]}, ${joint(at).map((v, i) => `${Math.round(100 * v)} % from the ${i ? 'top' : 'left'}`).join(', ')}`;
const settle = () => { if (stepped) { stepped = false; tell(); if (chosen) speak(spot(chosen)); } };  // a key held down is one change

element.addEventListener('keydown', e => {
  if ((e.ctrlKey || e.metaKey) && !e.shiftKey && letter(e) === 'z') { e.preventDefault(); e.stopPropagation(); return undo(); }
  const on = e.target.closest('.joint'), by = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[e.key];
  if (!on || held || e.ctrlKey || e.metaKey || e.altKey) return;
  const at = split(on.dataset.key);
  if (e.key === 'Delete' || e.key === 'Backspace') { e.preventDefault(); e.stopPropagation(); stepped = false; remove(at); }
  if (!by) return;
  e.preventDefault(); e.stopPropagation();
  const [x, y] = joint(at), step = e.shiftKey ? SMALL : STEP;
  move(at, clamp(x + by[0] * step), clamp(y + by[1] * step), !e.repeat);
  stepped = true;
});
element.addEventListener('keyup', e => { if (e.key.startsWith('Arrow')) settle(); });
element.addEventListener('focusin', e => {
  const on = e.target.closest('.joint');
  if (on) { chosen = split(on.dataset.key); foot(); caption(chosen); }
});
element.addEventListener('focusout', () => { settle(); if (!held) caption(); });
q('.undo').addEventListener('click', undo);
q('.off').addEventListener('click', () => { if (chosen) remove(chosen); });
q('.empty').textContent = OWN.invitation;
function read() {
  if (props.value === sent && sent !== null) return;
  const v = props.value && JSON.parse(props.value);
  sides = SIDES.map((_, s) => {
    const { src, width, height, people } = v?.sides?.[s] || { src: '' };
    kept[s] = src ?? kept[s];
    return { src: kept[s], width: width || 0, height: height || 0, people: JSON.parse(JSON.stringify(people || [])) };
  });
  sent = null; past = []; held = null; stepped = false; chosen = null;
  for (const part of parts) part.frame.classList.remove('held');
  draw();
}
watch('value', read); read();
