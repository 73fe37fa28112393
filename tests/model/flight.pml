/* SPDX-License-Identifier: Apache-2.0 */

/*
 * The life of a flight (src/fetch/internal.h, flight.c) and of those who wait for it: clients want
 * granules, flights are few, and so is the room that they need in the pool.
 *
 *     spin -search tests/model/flight.pml
 *
 * Each atomic block is what the program does under one lock, or one atomic operation. What holds:
 *
 * - Nobody is parked, or waits for a flight, for ever: each client comes to its end. A state in
 *   which nobody can go on and a client waits is an invalid end state.
 * - A granule that is being filled is carried by a listed flight: whoever wants it can join.
 * - One message for each want, no more; and when it says that the granule is there, it is.
 * - A flight is started once for each time that it is listed.
 * - Claims of room and flights are given back.
 *
 * So few clients do not fill the queue of background flights, but all else comes to pass: flights and
 * room run out, fills fail, and granules are evicted for others. -DCLIENTS=3 -DFLIGHTS=2 reaches the
 * queue, too, and has tens of millions of states.
 *
 * Variants that must not hold: -DBROKEN_PARK (who parks does not look again), -DBROKEN_HOLD (a
 * message holds nothing), -DBROKEN_LIST (a flight's waiters are taken before it is unlisted),
 * -DBROKEN_ROOM (the end of a hold sends nobody), -DBROKEN_CLAIM (nor does who has found room, but no
 * flight).
 */
#ifndef CLIENTS
#define CLIENTS 2 /* one demands, the others read ahead */
#endif
#ifndef FLIGHTS
#define FLIGHTS 1
#endif
#define GRANULES        2
#define SLOTS           2
#define ROOM            2 /* slots that may be claimed or held */
#define ROOM_BACKGROUND 2 /* by those who read ahead */
#define FLIGHT_RESERVE  0
#define BACKGROUND_MOST 1 /* background flights under way */
#define ROUNDS          2 /* granules that each client wants, one after the other */

#define ABSENT  0
#define FILLING 1
#define READY   2

#define NONE      255
#define NO_FLIGHT 254 /* room, but no flight */
#define SERVED 1
#define AGAIN  2
#define FAILED 3

/* The pool; a slot is free, claimed, or has a granule that is ready. */
byte state[GRANULES];
byte holds[GRANULES];
byte pins[GRANULES];
byte claimed;

#define HELD     ((holds[0] > 0) + (holds[1] > 0))
#define RESIDENT ((state[0] == READY) + (state[1] == READY))
#define AWAITED  (claimed + HELD > 0)
/* In a slot already, but not ready yet: between the two steps of publishing. */
#define SETTLING ((state[0] == FILLING && holds[0] > 0) + (state[1] == FILLING && holds[1] > 0))
#define EVICTABLE(g) (state[g] == READY && holds[g] == 0 && pins[g] == 0)

/* Flights. */
bool out[2]; /* not free */
byte free_count = FLIGHTS;
bool has_room[2];
byte carries[2] = NONE; /* listed */
bool demanded[2];
bool started[2];
bool background[2];
byte under_way;
chan queue = [2] of { byte };
byte joined[CLIENTS] = NONE; /* the flight that a client waits for */

/* Clients. */
bool awaits[CLIENTS]; /* a message is due */
chan box[CLIENTS] = [1] of { byte };
chan parked_demand = [CLIENTS] of { byte };
chan parked_background = [CLIENTS] of { byte };

/* What is used within one atomic block only, and no part of the state. */
hidden byte w, next;

/* Who gets it may be slow: so whether it is sent under a lock or after it makes no difference. */
inline finish(result)
{
    assert(awaits[w] && empty(box[w]));
    awaits[w] = false;
    box[w]!result
}

inline start(fl)
{
    assert(out[fl] && carries[fl] != NONE && !started[fl]);
    started[fl] = true
}

/* --- room --- */

inline room_take(demand)
{
    atomic {
        ok = false;
        if
        :: claimed + HELD >= (demand -> ROOM : ROOM_BACKGROUND) -> skip
        :: else ->
           if
           :: claimed + RESIDENT + SETTLING < SLOTS -> ok = true
           :: else ->
              if
              :: EVICTABLE(0) -> state[0] = ABSENT; ok = true
              :: EVICTABLE(1) -> state[1] = ABSENT; ok = true
              :: !demand -> skip /* they have all been used */
              :: demand && !EVICTABLE(0) && !EVICTABLE(1) -> skip
              fi
           fi
        fi;
        claimed = claimed + ok
    }
}

inline unpark_all()
{
    do
    :: nempty(parked_demand) -> parked_demand?w; finish(AGAIN)
    :: empty(parked_demand) && nempty(parked_background) -> parked_background?w; finish(AGAIN)
    :: empty(parked_demand) && empty(parked_background) -> break
    od
}

inline unpark_next()
{
    if
    :: nempty(parked_demand) -> parked_demand?w; finish(AGAIN)
    :: empty(parked_demand) && nempty(parked_background) && free_count > FLIGHT_RESERVE ->
       parked_background?w;
       finish(AGAIN)
    :: empty(parked_demand) && (empty(parked_background) || free_count <= FLIGHT_RESERVE) -> skip
    fi
}

inline room_made()
{
    ok = !AWAITED;
    atomic {
        if
        :: ok -> unpark_all()
        :: else -> unpark_next()
        fi;
        ok = false
    }
}

/* Who is parked waits for a flight or for room; when neither is awaited, nobody else sends him. */
inline send_if_nobody_will()
{
    if
    :: free_count == FLIGHTS ->
       if
       :: !AWAITED -> room_made()
       :: else -> skip
       fi
    :: else -> skip
    fi
}

inline hold_put(g)
{
    atomic { assert(holds[g] > 0); holds[g]-- }
#ifndef BROKEN_ROOM
    room_made()
#endif
}

/* --- flights --- */

inline flight_take(fl, demand)
{
    room_take(demand);
    if
    :: ok ->
       atomic {
           ok = false;
           if
           :: (!demand && free_count <= FLIGHT_RESERVE) || free_count == 0 -> fl = NO_FLIGHT
           :: else ->
              fl = (out[0] -> 1 : 0);
              assert(!out[fl]);
              out[fl] = true;
              has_room[fl] = true;
              free_count--
           fi
       }
       if
       :: fl == NO_FLIGHT ->
          atomic { claimed--; fl = NONE }
#ifndef BROKEN_CLAIM
          send_if_nobody_will()
#endif
       :: else -> skip
       fi
    :: else -> fl = NONE
    fi
}

inline next_background()
{
    if
    :: nempty(queue) && under_way < BACKGROUND_MOST ->
       queue?next;
       background[next] = true;
       under_way++;
       start(next)
    :: empty(queue) || under_way >= BACKGROUND_MOST -> skip
    fi
}

inline flight_put(fl)
{
    if
    :: has_room[fl] -> atomic { claimed--; has_room[fl] = false }
    :: else -> skip
    fi;
    atomic {
        under_way = under_way - background[fl];
        background[fl] = false;
        assert(carries[fl] == NONE);
        out[fl] = false;
        free_count++;
        if
        :: free_count == FLIGHTS -> unpark_all()
        :: else -> unpark_next()
        fi;
        next_background()
    }
}

inline flight_hurry(fl)
{
    atomic {
        if
        :: queue??[eval(fl)] -> queue??eval(fl); start(fl)
        :: !(queue??[eval(fl)]) -> skip
        fi
    }
}

inline flight_launch(fl, demand)
{
    if
    :: demand -> atomic { start(fl) }
    :: else ->
       atomic { queue!fl; next_background() }
       if
       :: demanded[fl] -> flight_hurry(fl)
       :: else -> skip
       fi
    fi
}

inline flight_park(demand)
{
    atomic {
        if
        :: demand -> parked_demand!me
        :: else -> parked_background!me
        fi
    }
#ifndef BROKEN_PARK
    flight_take(fl, demand);
    if
    :: fl != NONE -> flight_put(fl)
    :: else -> send_if_nobody_will()
    fi;
    fl = NONE
#endif
}

/* On an I/O thread, when its read is over. */
proctype flight(byte me)
{
    byte g;
    bool ok, good;

end:
    do
    :: atomic { started[me] -> started[me] = false; g = carries[me] }
       assert(state[g] == FILLING && has_room[me]);
       if
       :: atomic { claimed--; has_room[me] = false; holds[g]++; good = true }
          state[g] = READY
       :: atomic { state[g] = ABSENT; claimed--; has_room[me] = false; good = false }
       fi;
       atomic { /* whoever waits is ours to tell */
           w = 0;
           do
           :: w < CLIENTS ->
              if
              :: joined[w] == me -> joined[w] = 2 + me
              :: else -> skip
              fi;
              w++
           :: else -> break
           od;
#ifndef BROKEN_LIST
           carries[me] = NONE
#endif
       }
#ifdef BROKEN_LIST
       carries[me] = NONE;
#endif
       flight_put(me);
       atomic {
           w = 0;
           do
           :: w < CLIENTS ->
              if
              :: joined[w] == 2 + me ->
                 joined[w] = NONE;
                 if
                 :: good ->
#ifndef BROKEN_HOLD
                    assert(holds[g] > 0);
                    holds[g]++;
#endif
                    finish(SERVED)
                 :: else -> finish(FAILED)
                 fi
              :: else -> skip
              fi;
              w++
           :: else -> break
           od
       }
       if
       :: good -> hold_put(g)
       :: else -> skip
       fi;
       atomic { g = 0; good = false }
    od
}

#define CARRIED(g) (carries[0] == g || carries[1] == g)

proctype client(byte me; bool demand; byte g)
{
    byte rounds, fl = NONE, result, other = NONE;
    bool ok, mine;

    do
    :: rounds == ROUNDS -> break
    :: rounds < ROUNDS ->
       /* fetch_pin() */
       atomic { ok = (state[g] == READY); pins[g] = pins[g] + ok }
       if
       :: ok -> atomic { pins[g]--; g = (g + 1) % GRANULES; rounds++; ok = false }
       :: else ->
          /* fetch_want() */
          atomic { assert(!awaits[me]); awaits[me] = true }
          flight_take(fl, demand);
          atomic {
              assert(state[g] != FILLING || CARRIED(g));
              if
              :: state[g] == READY -> result = SERVED; awaits[me] = false
              :: state[g] == ABSENT && fl != NONE ->
                 state[g] = FILLING;
                 assert(joined[0] != fl && joined[1] != fl); /* nobody was forgotten */
                 carries[fl] = g;
                 demanded[fl] = demand;
                 joined[me] = fl;
                 mine = true
              :: state[g] != READY && (state[g] == FILLING || fl == NONE) ->
                 if
                 :: CARRIED(g) ->
                    other = (carries[0] == g -> 0 : 1);
                    joined[me] = other;
                    demanded[other] = demanded[other] || demand
                 :: else -> result = AGAIN /* must wait for a flight */
                 fi
              fi
          }
          if
          :: mine -> flight_launch(fl, demand); atomic { mine = false; fl = NONE }
          :: else ->
             if
             :: other != NONE && demand -> flight_hurry(other)
             :: else -> skip
             fi;
             other = NONE;
             if
             :: fl != NONE -> flight_put(fl); fl = NONE
             :: else -> skip
             fi
          fi;
          if
          :: result == AGAIN -> result = 0; flight_park(demand)
          :: else -> skip
          fi;
          if
          :: result == SERVED -> result = 0 /* it is there already: no message */
          :: else ->
             box[me]?result;
             if
             :: result == SERVED ->
                result = 0;
                assert(state[g] == READY);
#ifndef BROKEN_HOLD
                hold_put(g);
#endif
                atomic { g = (g + 1) % GRANULES; rounds++ }
             :: else -> result = 0
             fi
          fi
       fi
    od;
    assert(!awaits[me] && empty(box[me]))
}

init
{
    atomic {
        run flight(0);
#if FLIGHTS > 1
        run flight(1);
#endif
        run client(0, true, 0);
        run client(1, false, 1);
#if CLIENTS > 2
        run client(2, false, 0)
#endif
    }
}
