// Python sets what there is and which one is the frame; the menu of a picture says where it may go (`history/anywhere.js`).
const row = element.querySelector('.row');
function one({ src, name }, i, chosen) {
  const place = document.createElement('div'), pick = Object.assign(document.createElement('button'), { type: 'button', className: 'pick', ariaLabel: `Try ${i + 1}`, title: 'Choose this one' });
  const on = Object.assign(document.createElement('button'), { type: 'button', className: 'send', textContent: 'Send to …', ariaLabel: `Send try ${i + 1} to …` });
  const img = Object.assign(document.createElement('img'), { src, alt: '', draggable: true });
  img.dataset.name = `${name}-try${i + 1}`;
  pick.setAttribute('aria-pressed', i === chosen); on.setAttribute('aria-haspopup', 'menu');
  pick.append(img); place.append(pick, on);
  pick.addEventListener('click', () => trigger('choose', { index: i }));
  on.addEventListener('click', () => window.chrysalis?.menu(on, { src, name: img.dataset.name }));
  return place;
}
function draw() {
  const { tries = [], chosen = 0 } = props.value ? JSON.parse(props.value) : {};
  row.replaceChildren(...tries.map((t, i) => one(t, i, chosen)));
}
watch('value', draw); draw();
