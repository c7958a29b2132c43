"""``mmkdprune train --dry-run``: one batch of everything, and what a run would be."""
