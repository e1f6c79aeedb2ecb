"""``python -m torchrl_drpo.cli``."""

from torchrl_drpo.cli.main import main

raise SystemExit(main())
