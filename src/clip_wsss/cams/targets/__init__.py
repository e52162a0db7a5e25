"""What GradCAM differentiates: one file a method."""
