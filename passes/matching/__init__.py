"""Code shared by passes: constants, patterns, affine forms, facts about shapes."""
