/* An SQLite extension with a fault: the SQL function score(text) takes its time, in `score_text`.
 *
 *     WORKBENCH_KNOBS=FILE sqlite3 -cmd '.load ./sqlite_score'
 *
 * The few functions of SQLite that are needed are declared here; the program that loads this has them.
 */
#include "planted.h"

#define SQLITE_OK 0
#define SQLITE_ERROR 1
#define SQLITE_UTF8 1
#define SQLITE_DETERMINISTIC 0x800

typedef struct sqlite3 sqlite3;
typedef struct sqlite3_context sqlite3_context;
typedef struct sqlite3_value sqlite3_value;

int sqlite3_create_function(sqlite3 *, const char *name, int arguments, int flags, void *data,
			    void (*call)(sqlite3_context *, int, sqlite3_value **),
			    void (*step)(sqlite3_context *, int, sqlite3_value **), void (*final)(sqlite3_context *));
int sqlite3_value_bytes(sqlite3_value *);
void sqlite3_result_int64(sqlite3_context *, long long);

static const volatile uint64_t *knobs;

PLANTED(score_text)

static void score(sqlite3_context *context, int count, sqlite3_value **values)
{
	uint64_t found = score_text(knobs, (uint64_t)sqlite3_value_bytes(values[0]) + (uint64_t)count);

	sqlite3_result_int64(context, (long long)(found >> 33));
}

PUBLIC int sqlite3_extension_init(sqlite3 *database, char **error, const void *functions)
{
	(void)error, (void)functions;
	knobs = planted_knobs();
	return knobs ? sqlite3_create_function(database, "score", 1, SQLITE_UTF8 | SQLITE_DETERMINISTIC, NULL, score, NULL,
					       NULL)
		     : SQLITE_ERROR;
}
