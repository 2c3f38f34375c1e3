// A DRAM controller with an AXI4 slave, for simulation; the memory itself is in dram.cpp.
//
// Bursts are answered in order. What a test may set, as plusargs or by writing the signal:
//
//   +dram_file=<path>        the memory (or $VITESSERA_DRAM); its size is the file's
//   +dram_base=<hex>         address of its first byte
//   read_latency             cycles from an address to its first read beat
//   write_latency            cycles from the last write beat to the response
//   beats_per_16             bandwidth: beats in 16 cycles, reads and writes together; 32 is no limit
//   stalls_per_256           cycles of 256 in which a channel does not move, for each channel at
//                            random: ready is low, or nothing new becomes valid
//   random                   state of that randomness: writing the same number to it, in the same
//                            cycle of a run, gives the same stalls
//
// `violation` goes high and stays when a rule is broken; a message names rule and address. Rules:
// bursts are INCR, of full width, aligned, within 4 KB; WLAST ends each; what waits for a ready
// holds still; every byte lies in a buffer that the test granted (see dram.cpp).
module dram #(
  parameter int BUS_BITS = 64,
  parameter int ID_BITS = 1,
  parameter int BURSTS = 64  // under way in each direction; a power of two
) (
  input logic aclk,
  input logic aresetn,

  input logic [ID_BITS-1:0] s_axi_arid,
  input logic [63:0] s_axi_araddr,
  input logic [7:0] s_axi_arlen,
  input logic [2:0] s_axi_arsize,
  input logic [1:0] s_axi_arburst,
  input logic s_axi_arvalid,
  output logic s_axi_arready,
  output logic [ID_BITS-1:0] s_axi_rid,
  output logic [BUS_BITS-1:0] s_axi_rdata,
  output logic [1:0] s_axi_rresp,
  output logic s_axi_rlast,
  output logic s_axi_rvalid,
  input logic s_axi_rready,

  input logic [ID_BITS-1:0] s_axi_awid,
  input logic [63:0] s_axi_awaddr,
  input logic [7:0] s_axi_awlen,
  input logic [2:0] s_axi_awsize,
  input logic [1:0] s_axi_awburst,
  input logic s_axi_awvalid,
  output logic s_axi_awready,
  input logic [BUS_BITS-1:0] s_axi_wdata,
  input logic [BUS_BITS/8-1:0] s_axi_wstrb,
  input logic s_axi_wlast,
  input logic s_axi_wvalid,
  output logic s_axi_wready,
  output logic [ID_BITS-1:0] s_axi_bid,
  output logic [1:0] s_axi_bresp,
  output logic s_axi_bvalid,
  input logic s_axi_bready,

  output logic violation
);
  localparam int BYTES = BUS_BITS / 8;
  localparam int INDEX_BITS = $clog2(BURSTS);
  localparam int MESSAGES = 20;
  localparam int FORBIDDEN = 4;  // of dram_read and dram_write, above the response

  import "DPI-C" function chandle dram_open(input string path, input longint unsigned base);
  import "DPI-C" function void dram_refresh(input chandle memory);
  import "DPI-C" function int dram_read(
    input chandle memory, input longint unsigned address, input int bytes,
    output bit [BUS_BITS-1:0] data);
  import "DPI-C" function int dram_write(
    input chandle memory, input longint unsigned address, input int bytes,
    input bit [BUS_BITS-1:0] data, input bit [BUS_BITS/8-1:0] strobe);

  typedef struct packed {
    logic [ID_BITS-1:0] id;
    logic [63:0] address;
    logic [7:0] length;
    longint unsigned due;  // cycle of the first read beat
  } burst_t;

  typedef struct packed {
    logic [ID_BITS-1:0] id;
    logic [1:0] response;
    longint unsigned due;
  } response_t;

  int read_latency /* verilator public_flat_rw */ = 24;
  int write_latency /* verilator public_flat_rw */ = 12;
  int beats_per_16 /* verilator public_flat_rw */ = 32;
  int stalls_per_256 /* verilator public_flat_rw */ = 0;
  int unsigned random /* verilator public_flat_rw */ = 1;
  int violations /* verilator public_flat_rw */ = 0;  // so that a test can clear it

  assign violation = violations != 0;

  string path = "";
  longint unsigned base = 0;
  chandle memory;

  initial begin
    void'($value$plusargs("dram_file=%s", path));
    void'($value$plusargs("dram_base=%h", base));
    void'($value$plusargs("dram_read_latency=%d", read_latency));
    void'($value$plusargs("dram_write_latency=%d", write_latency));
    void'($value$plusargs("dram_beats_per_16=%d", beats_per_16));
    void'($value$plusargs("dram_stalls_per_256=%d", stalls_per_256));
    void'($value$plusargs("dram_random=%d", random));
    memory = dram_open(path, base);
    if (memory == null)
      $fatal(1, "dram: cannot map %s; name the file with +dram_file or VITESSERA_DRAM.", path);
  end

  task automatic report(input string rule, input logic [63:0] address);
    violations = violations + 1;
    if (violations <= MESSAGES) begin
      $display("dram: %s at address 0x%h, cycle %0d", rule, address, cycle);
      $fflush;  // the simulated board reads the log while the simulation goes on
    end
  endtask

  task automatic check_burst(
    input string name, input logic [63:0] address, input logic [7:0] length, input logic [2:0] size,
    input logic [1:0] burst);
    if (burst != 2'b01) report({name, " burst is not INCR"}, address);
    if (size != 3'($clog2(BYTES))) report({name, " burst is narrower than the bus"}, address);
    if (address % 64'(BYTES) != 0) report({name, " burst is not aligned"}, address);
    if (address % 4096 + (64'(length) + 1) * 64'(BYTES) > 4096)
      report({name, " burst crosses a 4 KB boundary"}, address);
  endtask

  longint unsigned cycle;
  int signed credit;  // sixteenths of a beat that the bandwidth leaves

  burst_t reads [BURSTS];
  logic [INDEX_BITS-1:0] read_newest, read_oldest;
  logic [INDEX_BITS:0] reads_waiting;
  logic [7:0] read_beat;

  burst_t writes [BURSTS];
  logic [INDEX_BITS-1:0] write_newest, write_oldest;
  logic [INDEX_BITS:0] writes_owed;
  logic [INDEX_BITS:0] writes_open;  // until the response is taken
  logic [7:0] write_beat;
  logic [1:0] write_response;

  response_t responses [BURSTS];
  logic [INDEX_BITS-1:0] response_newest, response_oldest;
  logic [INDEX_BITS:0] responses_waiting;

  // Marsaglia's xorshift with an odd number added each cycle, so that no seed stands still.
  function automatic int unsigned xorshift(input int unsigned from);
    automatic int unsigned x = from;
    x ^= x << 13;
    x ^= x >> 17;
    return x ^ (x << 5);
  endfunction
  always_ff @(posedge aclk) random <= xorshift(random + 32'h9e3779b9);
  wire ar_open = int'(random[7:0]) >= stalls_per_256;
  wire aw_open = int'(random[15:8]) >= stalls_per_256;
  wire w_open = int'(random[23:16]) >= stalls_per_256;
  wire r_open = int'(random[31:24]) >= stalls_per_256;
  wire b_open = int'(random[7:0] ^ random[27:20]) >= stalls_per_256;

  wire affordable = credit >= 16;
  wire ar_taken = s_axi_arvalid && s_axi_arready;
  wire aw_taken = s_axi_awvalid && s_axi_awready;
  wire w_taken = s_axi_wvalid && s_axi_wready;
  wire b_taken = s_axi_bvalid && s_axi_bready;
  wire read_leaves = (!s_axi_rvalid || s_axi_rready) && reads_waiting != 0
    && cycle >= reads[read_oldest].due && affordable && r_open;
  wire read_ends = read_leaves && read_beat == reads[read_oldest].length;
  wire write_ends = w_taken && write_beat == writes[write_oldest].length;
  wire response_leaves = (!s_axi_bvalid || s_axi_bready) && responses_waiting != 0
    && cycle >= responses[response_oldest].due && b_open;

  assign s_axi_arready = aresetn && ar_open && int'(reads_waiting) != BURSTS;
  assign s_axi_awready = aresetn && aw_open && int'(writes_open) != BURSTS;
  assign s_axi_wready = aresetn && w_open && writes_owed != 0 && affordable;

  always_ff @(posedge aclk) begin : bandwidth
    automatic int signed left = credit + beats_per_16 - 16 * (int'(read_leaves) + int'(w_taken));
    credit <= left > 32 ? 32 : left;
    cycle <= cycle + 1;
    if (!aresetn) credit <= 0;
  end

  always_ff @(posedge aclk) begin : read_channel
    automatic longint unsigned address = reads[read_oldest].address + 64'(read_beat) * BYTES;
    automatic bit [BUS_BITS-1:0] data;
    automatic int answer;
    if (ar_taken) begin
      dram_refresh(memory);
      check_burst("read", s_axi_araddr, s_axi_arlen, s_axi_arsize, s_axi_arburst);
      reads[read_newest] <= '{s_axi_arid, s_axi_araddr, s_axi_arlen, cycle + 64'(read_latency)};
      read_newest <= read_newest + 1;
    end
    if (s_axi_rready) s_axi_rvalid <= 1'b0;
    if (read_leaves) begin
      answer = dram_read(memory, address, BYTES, data);
      if ((answer & FORBIDDEN) != 0) report("read outside the granted buffers", address);
      s_axi_rdata <= data;
      s_axi_rresp <= answer[1:0];
      s_axi_rid <= reads[read_oldest].id;
      s_axi_rlast <= read_ends;
      s_axi_rvalid <= 1'b1;
      read_beat <= read_ends ? 8'd0 : read_beat + 8'd1;
      if (read_ends) read_oldest <= read_oldest + 1;
    end
    reads_waiting <= reads_waiting + (INDEX_BITS+1)'(ar_taken) - (INDEX_BITS+1)'(read_ends);
    if (!aresetn) begin
      read_newest <= 0;
      read_oldest <= 0;
      reads_waiting <= 0;
      read_beat <= 0;
      s_axi_rvalid <= 1'b0;
    end
  end

  always_ff @(posedge aclk) begin : write_channel
    automatic longint unsigned address = writes[write_oldest].address + 64'(write_beat) * BYTES;
    automatic logic [1:0] response = write_response;
    automatic int answer;
    if (aw_taken) begin
      dram_refresh(memory);
      check_burst("write", s_axi_awaddr, s_axi_awlen, s_axi_awsize, s_axi_awburst);
      writes[write_newest] <= '{s_axi_awid, s_axi_awaddr, s_axi_awlen, 0};
      write_newest <= write_newest + 1;
    end
    if (w_taken) begin
      answer = dram_write(memory, address, BYTES, s_axi_wdata, s_axi_wstrb);
      if ((answer & FORBIDDEN) != 0) report("write outside the granted buffers", address);
      if (s_axi_wlast != write_ends) report("WLAST is not at the burst's end", address);
      if (answer[1:0] > response) response = answer[1:0];
      write_beat <= write_ends ? 8'd0 : write_beat + 8'd1;
      write_response <= write_ends ? 2'b00 : response;
      if (write_ends) begin
        responses[response_newest] <=
          '{writes[write_oldest].id, response, cycle + 64'(write_latency)};
        response_newest <= response_newest + 1;
        write_oldest <= write_oldest + 1;
      end
    end
    if (s_axi_bready) s_axi_bvalid <= 1'b0;
    if (response_leaves) begin
      s_axi_bid <= responses[response_oldest].id;
      s_axi_bresp <= responses[response_oldest].response;
      s_axi_bvalid <= 1'b1;
      response_oldest <= response_oldest + 1;
    end
    writes_owed <= writes_owed + (INDEX_BITS+1)'(aw_taken) - (INDEX_BITS+1)'(write_ends);
    writes_open <= writes_open + (INDEX_BITS+1)'(aw_taken) - (INDEX_BITS+1)'(b_taken);
    responses_waiting <= responses_waiting + (INDEX_BITS+1)'(write_ends)
      - (INDEX_BITS+1)'(response_leaves);
    if (!aresetn) begin
      write_newest <= 0;
      write_oldest <= 0;
      writes_owed <= 0;
      writes_open <= 0;
      write_beat <= 0;
      write_response <= 0;
      response_newest <= 0;
      response_oldest <= 0;
      responses_waiting <= 0;
      s_axi_bvalid <= 1'b0;
    end
  end

  // What waited for a ready in the last cycle must still be there.
  logic ar_waited, aw_waited, w_waited;
  logic [71:0] ar_before, aw_before;
  logic [BUS_BITS+BUS_BITS/8:0] w_before;
  wire [71:0] ar_now = {s_axi_araddr, s_axi_arlen};
  wire [71:0] aw_now = {s_axi_awaddr, s_axi_awlen};
  wire [BUS_BITS+BUS_BITS/8:0] w_now = {s_axi_wdata, s_axi_wstrb, s_axi_wlast};

  always_ff @(posedge aclk) begin : stability
    if (aresetn && ar_waited && (!s_axi_arvalid || ar_now != ar_before))
      report("read address withdrawn or changed", ar_before[71:8]);
    if (aresetn && aw_waited && (!s_axi_awvalid || aw_now != aw_before))
      report("write address withdrawn or changed", aw_before[71:8]);
    if (aresetn && w_waited && (!s_axi_wvalid || w_now != w_before))
      report("write data withdrawn or changed", writes[write_oldest].address);
    ar_waited <= aresetn && s_axi_arvalid && !s_axi_arready;
    aw_waited <= aresetn && s_axi_awvalid && !s_axi_awready;
    w_waited <= aresetn && s_axi_wvalid && !s_axi_wready;
    ar_before <= ar_now;
    aw_before <= aw_now;
    w_before <= w_now;
  end
endmodule
