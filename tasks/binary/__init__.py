"""Binary networks: layers of one-bit weights and activations, their ResNets, and the task plugin."""
