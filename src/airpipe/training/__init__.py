"""The step loop on Lightning Fabric, its losses and its checkpoints."""
