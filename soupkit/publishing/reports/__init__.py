"""Reports: figures and the page that shows them."""
