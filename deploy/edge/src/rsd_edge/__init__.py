"""What runs on the device: signed bundles are verified, installed, activated, served and taken back."""
