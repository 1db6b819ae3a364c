"""One file per recurrence: its equations, its functions and its hand-written rules."""
