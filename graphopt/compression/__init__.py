"""What every lossy pass needs: how its result is judged and how much may be lost; activation statistics."""
