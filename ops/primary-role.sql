-- The shipper's role on a primary: it may stream WAL, take base backups and read statistics,
-- and nothing else.  No superuser, no access to any table.
--
-- Run once on the primary, as a superuser, in any database (roles belong to the cluster):
--
--     psql -X -v ON_ERROR_STOP=1 -d postgres -f primary-role.sql
--     psql -X -v ON_ERROR_STOP=1 -d postgres -v role=logship_eu -f primary-role.sql
--
-- Running it again changes nothing.  PostgreSQL 14 to 18.
--
-- What each right is for:
--   LOGIN        a replication connection (the WAL) and an ordinary one (what the server is)
--   REPLICATION  START_REPLICATION, its own slot, BASE_BACKUP
--   pg_monitor   pg_stat_replication in full, where the primary says whether commits really
--                wait for us; without it `shipper status` shows the protection as unknown.
--                And shared_preload_libraries, for the version check
-- All else that the shipper reads (pg_control_system(), pg_settings, pg_replication_slots, the
-- catalogs of extensions and collations in each database) is open to everyone, unless somebody
-- revoked it from PUBLIC, as well as CONNECT on each database.
--
-- How it gets in is for pg_hba.conf.  "replication" in the second column is not a database:
-- "all" does not include it, so it takes a line of its own.  With "postgres" in place of "all"
-- everything is protected as well, but what is in the other databases (collations, extensions)
-- is not compared with the recovery server, and the version check says so.
--
--   On the primary's own host, by unix socket, when the shipper's unix user has the role's name:
--     local  replication  logship                    peer
--     local  all          logship                    peer
--   Over TCP with a password (set it with \password logship, which keeps it out of logs), in
--   a passfile that only the shipper's user can read (mode 0600):
--     hostssl  replication  logship  192.0.2.10/32   scram-sha-256
--     hostssl  all          logship  192.0.2.10/32   scram-sha-256
--     passfile:  db1.example.com:5432:*:logship:PASSWORD
--     conninfo = "host=db1.example.com user=logship passfile=/etc/logship/db1.pass"
--   Then: SELECT pg_reload_conf();
--
-- Settings of the primary (`shipper check` compares all of them):
--   wal_level = replica            or logical; minimal has not what a standby needs.  (restart)
--   max_wal_senders                what you use already, and 2: one streams, one seeds.  (restart)
--   max_replication_slots          what you use already, and 1.  (restart)
--   max_slot_wal_keep_size         how much WAL an outage of the link or of the recovery server
--                                  may pile up on the primary's disk, e.g. 20GB.  The default,
--                                  -1, has no limit: a long outage fills the disk of pg_wal, and
--                                  then PRODUCTION STOPS.  With a limit the slot is given up
--                                  instead, and the standby needs a new seed.  (reload)
--   synchronous_standby_names      only for protection = "sync", and only after `shipper status`
--                                  says "following": from the reload on, every commit waits for
--                                  the recovery server, also while it can't be reached.
--                                  'FIRST 1 (logship_INSTANCE)', with "_" for every "-".  (reload)
--   wal_sender_timeout             more than twice primary.status_interval_seconds of the
--                                  shipper (10 s); the default, 60 s, is good.  (reload)

\if :{?role}
\else
  \set role logship
\endif

SELECT format('CREATE ROLE %I', :'role')
 WHERE NOT EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = :'role')
\gexec

ALTER ROLE :"role" LOGIN REPLICATION;
GRANT pg_monitor TO :"role";
