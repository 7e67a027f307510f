"""From graphopt's IR to Relax: the walk over the graph, the emitter, operands, symbols, provenance."""
