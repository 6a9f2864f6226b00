"""One file per kind of teacher, named as `teacher.source` says; it defines one subclass of `TeacherOptions`."""
