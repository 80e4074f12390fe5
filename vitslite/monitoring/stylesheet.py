"""What all pages begin with: the head ($title is to be filled in) and the look they share. Each adds its own to it."""

HEAD = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>$title</title>
<style>
:root { color-scheme: light dark; --ink: #1d2126; --paper: #fcfcfa; --soft: #6a717b; --line: #dfe1e4;
  --mark: #ffdf94; --now: #eef4ff; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e4e6e9; --paper: #16181c; --soft: #989fa9; --line: #33373e; --mark: #6d5310; --now: #1e2735; }
}
body { margin: 0 auto; padding: 1.5rem 1rem 4rem; background: var(--paper); color: var(--ink);
  font: 1rem/1.5 system-ui, sans-serif; }
h1 { margin: 0; font-size: 1.5rem; overflow-wrap: anywhere; }
section { margin-top: 2.5rem; padding-top: 1.5rem; border-top: 1px solid var(--line); }
mark { padding: 0 .15em; border-radius: 3px; background: var(--mark); color: inherit; }
"""
