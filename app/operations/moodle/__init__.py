"""What Moodle's log export is: its columns, times and names. Pure: reads and writes nothing."""
