"""One module per group of commands; `workbench.cli` loads a module only when its command is called."""
