"""What everything else uses: files, images, maps, archives, processes, errors."""
