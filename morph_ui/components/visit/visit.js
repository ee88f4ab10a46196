// Jobs belong to a visit, and a reload is another one: ask before, and say so afterwards.
const word = element.querySelector('.word'), ENDED = 'chrysalis-ended';
const running = () => !!document.querySelector('button[id$="-stop"]');
window.addEventListener('beforeunload', e => { if (running()) { e.preventDefault(); e.returnValue = ''; } });
window.addEventListener('pagehide', () => { try { if (running()) sessionStorage.setItem(ENDED, '1'); } catch { /* no storage here */ } });
word.querySelector('button').addEventListener('click', () => { word.hidden = true; });
try {
  if (sessionStorage.getItem(ENDED)) {
    sessionStorage.removeItem(ENDED);
    word.firstChild.textContent = 'The reload has ended what was being made. Your pictures are kept: press Make to begin again.';
    word.hidden = false;
  }
} catch { /* no storage here */ }
document.documentElement.classList.toggle('plain-http', !window.isSecureContext);
