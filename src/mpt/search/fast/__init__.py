"""The same numbers sooner on a CPU: compiled loops, a threshold looked for near the previous one, memory lent again."""
