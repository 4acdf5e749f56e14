---------------------------- MODULE MCFencedTower ----------------------------
(***************************************************************************)
(* FencedTower within bounds, for TLC.  The bounds of each model and their *)
(* reasons are in manifest.json; MCFencedTower.cfg is the smallest model,  *)
(* and what every other one starts from.                                   *)
(***************************************************************************)
EXTENDS FencedTower, TLC

CONSTANTS
  MaxRevision,  \* How many transactions may change the store.
  MaxClock      \* How far the clock may go.

Bounds == store.revision <= MaxRevision /\ clock <= MaxClock

\* Which machine is which does not matter.
Symmetry == Permutations(Instances)

-----------------------------------------------------------------------------
(* No promises: each says that something never happens which must happen, so that a model that holds is *)
(* known not to be one that stands still.  TLC has to find the way there.                               *)

\* This machine wrote the second vote, the first thing under its fence; the first vote had left from elsewhere.
TookOver(n) == /\ node[n].state = "ready" /\ Len(node[n].tower) = 2
               /\ node[n].revision = node[n].fence + 1
               /\ SubSeq(node[n].tower, 1, 1) \in released

NoHandover == \A n \in Nodes : ~TookOver(n)
NoHandoverToInstance == \A n \in Instances : ~TookOver(n)
NoHandoverToLegacy == \A n \in Legacy : ~TookOver(n)

\* A block by a life after another life has produced one.
NoSecondProducer == \A a, b \in produced : a.by = b.by
=============================================================================
