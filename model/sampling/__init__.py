"""From noise to data: the flow, its solvers, guidance, and the network's call at one step."""
