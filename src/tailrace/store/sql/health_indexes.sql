-- The indexes of the schema $1, and whether each is complete and used.
select class.relname as name, index.indisvalid and index.indisready as is_valid
from pg_index as index
join pg_class as class on class.oid = index.indexrelid
join pg_namespace as namespace on namespace.oid = class.relnamespace
where namespace.nspname = $1
