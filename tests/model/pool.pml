/* SPDX-License-Identifier: Apache-2.0 */

/*
 * The protocol of src/cache/pool.h: readers pin granules while others evict and fill them.
 *
 *     spin -search tests/model/pool.pml
 *
 * Two granules, two slots, and three who fill them, so that each is taken from the other. Each atomic
 * block is one instruction of the program (a load, or a compare-and-swap that succeeds), or what is
 * done under the lock. The assertion: a reader that has pinned finds its granule's bytes until it
 * unpins, and whoever fills a slot has it alone. -DBROKEN: evict without looking at the pins.
 */
#define GRANULES 2
#define SLOTS    2
#define NONE     255

#ifdef BROKEN
#define EVICTABLE(g) true
#else
#define EVICTABLE(g) (pins[g] == 0)
#endif

#define ABSENT  0
#define FILLING 1
#define READY   2

byte state[GRANULES];
byte pins[GRANULES];    /* with the state in one word: always together in one atomic block */
byte place[GRANULES] = NONE;
byte content[SLOTS] = NONE; /* whose bytes are there */
byte owner[SLOTS] = NONE;   /* the granule that is ready there, for who evicts */
bool is_free[SLOTS] = true;
byte fillers[SLOTS];
byte readers[SLOTS];

proctype reader(byte g)
{
    byte s;

    do
    :: atomic { state[g] == READY -> pins[g]++ }
       s = place[g]; /* read after the pin */
       readers[s]++;
       assert(content[s] == g && fillers[s] == 0);
       assert(content[s] == g && fillers[s] == 0); /* all the time */
       readers[s]--;
       atomic { pins[g]-- }
    od
}

/* Under the lock: a free slot, or one whose granule is ready and not pinned. */
inline take(s)
{
    atomic {
        if
        :: is_free[0] -> s = 0; is_free[0] = false
        :: is_free[1] -> s = 1; is_free[1] = false
        :: owner[0] != NONE && state[owner[0]] == READY && EVICTABLE(owner[0]) ->
           s = 0; state[owner[0]] = ABSENT; owner[0] = NONE
        :: owner[1] != NONE && state[owner[1]] == READY && EVICTABLE(owner[1]) ->
           s = 1; state[owner[1]] = ABSENT; owner[1] = NONE
        fi
    }
}

proctype filler(byte g)
{
    byte s;

    do
    :: take(s);
       if
       :: atomic { state[g] == ABSENT -> state[g] = FILLING }
          place[g] = s;
          fillers[s]++;
          assert(fillers[s] == 1 && readers[s] == 0);
          content[s] = NONE; /* half of it is there */
          content[s] = g;
          fillers[s]--;
          if
          :: atomic { owner[s] = g } /* the lock: it can be found from here on ... */
             atomic { state[g] = READY } /* ... and evicted from here on */
          :: atomic { state[g] = ABSENT } /* could not be filled */
             atomic { is_free[s] = true }
          fi
       :: atomic { state[g] != ABSENT -> is_free[s] = true }
       fi
    od
}

init
{
    atomic {
        run reader(0);
        run reader(0);
        run reader(1);
        run filler(0);
        run filler(0);
        run filler(1);
    }
}
