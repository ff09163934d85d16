-- Objects that are to be removed from the store: doomed, or left by a turn that was cut short.
select objects.name, objects.state
from tailrace.archive_objects as objects
where objects.state <> 'stored'
order by objects.name
