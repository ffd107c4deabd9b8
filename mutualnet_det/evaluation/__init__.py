"""What a trained model costs and how well it detects, at every operating point of a grid."""
