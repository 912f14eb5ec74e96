// Attributes that assistive technology needs, and the theme leaves out.
document.addEventListener("DOMContentLoaded", () => {
  document.querySelectorAll('p.caption[role="heading"]').forEach((found) => found.setAttribute("aria-level", "2"));
  document.querySelectorAll("div.highlight pre, .table-wrapper").forEach((found) => (found.tabIndex = 0));
  document.querySelectorAll("dt.sig dl, dt.sig dd").forEach((found) => found.setAttribute("role", "presentation"));
});
