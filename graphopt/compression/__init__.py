"""What every lossy pass needs: evaluation of its result, budgets, activation statistics."""
