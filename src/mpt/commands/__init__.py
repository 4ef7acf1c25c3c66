"""The console commands and what they print. They import torch only when there is work."""
