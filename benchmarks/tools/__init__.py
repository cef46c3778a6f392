"""What all rooms share: the command line, rounds that go on, the machine's name, memory, peers and checkpoints."""
