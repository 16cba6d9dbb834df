"""Instances: their spec, their disks, their libvirt domain, from spawn to destroy."""
