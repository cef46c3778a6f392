"""Side-by-side measurements that anyone can run; each prints a table of ratios."""
