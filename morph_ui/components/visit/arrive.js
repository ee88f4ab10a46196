() => {
  const token = Array.from(crypto.getRandomValues(new Uint8Array(24)), b => b.toString(16).padStart(2, '0')).join('');
  let left = {};
  try { left = JSON.parse(sessionStorage.getItem('chrysalis-left')) || {}; sessionStorage.removeItem('chrysalis-left'); } catch { /* no storage here */ }
  window.chrysalisVisit = { token, left };
  return [{ token, before: left.token || '' }];
}