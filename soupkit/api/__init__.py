"""What `import soupkit` offers: the commands as functions, with typed results."""
