"""The adapters of the tower store: `memory`, `file`, `etcd`. Their contract is `tower.store`."""
