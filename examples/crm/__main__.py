"""``python -m crm`` runs the demo without the command line of the bus."""

from __future__ import annotations

from crm.command import demo

if __name__ == "__main__":
    demo(prog_name="python -m crm")
