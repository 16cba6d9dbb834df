"""Instances: what they are to be, how their disks are attached, and the domain they become."""
