"""What passes share: constants, patterns, affine forms, facts about shapes."""
