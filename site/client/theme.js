// Runs before the first paint: a stored choice of light or dark beats the system's. Nothing else may wait for it.
try {
  const chosen = localStorage.getItem('ringbook-theme');
  if (chosen === 'light' || chosen === 'dark') document.documentElement.dataset.theme = chosen;
} catch {
  // No storage (a file opened from disk, or a strict browser): the system's choice stands.
}
